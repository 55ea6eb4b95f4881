//! Requests in pieces, in nonsense, and as a model has them.

use kv::resp::{Arguments, Malformed, NoRoom, Parser, Replies, number};
use proptest::prelude::*;

const MAX: usize = 1000;

fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(word);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn words(request: &[u8]) -> Vec<&[u8]> {
    Arguments::of(request).collect()
}

#[test]
fn lines_are_words() {
    let line = b"  set  key value\r\nping\n";
    let length = Parser::default().parse(line, MAX).unwrap().unwrap();
    assert_eq!(words(&line[..length]), [&b"set"[..], b"key", b"value"]);
    assert_eq!(words(&line[length..]), [b"ping"]);
    assert_eq!(Parser::default().parse(b"\r\n", MAX), Ok(Some(2)));
    assert!(words(b"\r\n").is_empty());
    assert_eq!(Parser::default().parse(b"*-1\r\n", MAX), Ok(Some(5)));
    assert_eq!(Arguments::of(b"*-1\r\n").len(), 0);
}

#[test]
fn what_is_no_request_is_said_to_be_none() {
    let refused = |text: &[u8]| Parser::default().parse(text, MAX).unwrap_err();
    assert_eq!(refused(b"*x\r\n"), Malformed::Count);
    assert_eq!(refused(b"*65537\r\n"), Malformed::Count);
    assert_eq!(refused(b"*9999999999999999999999\r\n"), Malformed::Count);
    assert_eq!(refused(b"*1\r\n:1\r\n"), Malformed::NoLength(b':'));
    assert_eq!(refused(b"*1\r\n$-1\r\n"), Malformed::Length);
    assert_eq!(refused(b"*1\r\n$1001\r\n"), Malformed::Length);
    assert_eq!(refused(b"*1\r\n$2\r\nabcd"), Malformed::NoEnd);
    assert_eq!(refused(&[b'x'; 1024]), Malformed::Line);
    assert_eq!(refused(&[&b"*"[..], &[b'1'; 1024]].concat()), Malformed::Line);
    assert_eq!(Malformed::NoLength(b'\n').to_string(), "Protocol error: expected '$', got '\\n'");
}

#[test]
fn numbers_are_written_in_one_way() {
    for (text, value) in [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)] {
        assert_eq!(number(text.as_bytes()), Some(value));
    }
    for text in ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "a"] {
        assert_eq!(number(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn replies_have_the_room_they_were_given() {
    let mut replies = Replies::default();
    assert_eq!(replies.reserve(5000), Err(NoRoom(5000)));
    replies.allow(5000);
    replies.reserve(5000).unwrap();
    replies.bulk(&[7; 4900]);
    assert_eq!(replies.reserve(200), Err(NoRoom(200)));
    assert!(!replies.has_room());
    replies.clear();
    assert!(replies.has_room() && replies.bytes().is_empty());
    assert_eq!(replies.reserve(5000), Err(NoRoom(5000)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_something(bytes: Vec<u8>, max in 0usize..100) {
        let mut parser = Parser::default();
        let mut at = 0;
        while let Ok(Some(length)) = parser.parse(&bytes[at..], max) {
            prop_assert!(length > 0 && at + length <= bytes.len());
            let arguments = Arguments::of(&bytes[at..at + length]);
            let expected = arguments.len();
            prop_assert_eq!(arguments.count(), expected);
            at += length;
            if at == bytes.len() {
                break;
            }
        }
    }

    /// Nearly requests: what random bytes do not reach.
    #[test]
    fn nearly_requests_are_something(pieces in prop::collection::vec("[*$][0-9-]{0,3}\r\n|[a-z]{0,4}\r\n|\r\n", 0..12)) {
        let bytes = pieces.concat().into_bytes();
        let mut parser = Parser::default();
        if let Ok(Some(length)) = parser.parse(&bytes, MAX) {
            let arguments = Arguments::of(&bytes[..length]);
            let expected = arguments.len();
            prop_assert_eq!(arguments.count(), expected);
        }
    }

    #[test]
    fn requests_in_pieces_are_whole_at_their_end_and_never_before(
        requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 1..4),
        cuts in prop::collection::vec(1usize..9, 1..20),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
        let (mut parser, mut start, mut end, mut found) = (Parser::default(), 0, 0, Vec::new());
        for cut in cuts.iter().cycle() {
            end = bytes.len().min(end + cut);
            while let Some(length) = parser.parse(&bytes[start..end], MAX).unwrap() {
                found.push(words(&bytes[start..start + length]).into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
                start += length;
            }
            if end == bytes.len() {
                break;
            }
            if end > start {
                prop_assert!(parser.wanted_bytes() == 0 || parser.wanted_bytes() > end - start);
            }
        }
        prop_assert_eq!(found, requests);
        prop_assert_eq!(start, bytes.len());
    }
}
