//! Tokens that show that a client receives at the address it sends from.
//!
//! A token is a keyed hash of address, nonce and time: the server keeps nothing for a client before it has one, and who
//! cannot read what goes to an address cannot guess the token for it.

use core::hash::Hasher;
use core::net::{IpAddr, SocketAddr};
use siphasher::sip::SipHasher24;

/// Seconds in which the same token is given out. It is good for these and the following ones.
const PERIOD_S: u64 = 10;

/// The key of the tokens, and the generation of this VM that drew it: a copy of the VM draws another one.
#[derive(Debug, Default)]
pub struct Tokens {
    key: Option<(u64, [u8; 16])>,
}

impl Tokens {
    /// The token for an address, `elapsed_s` seconds after the server's start.
    pub fn make(&mut self, address: SocketAddr, nonce: u64, elapsed_s: u64) -> u64 {
        hash(&self.key(), address, nonce, elapsed_s / PERIOD_S)
    }

    /// Whether this is the token that the address was or would have been given not long ago.
    pub fn is_good(&mut self, token: u64, address: SocketAddr, nonce: u64, elapsed_s: u64) -> bool {
        let (key, period) = (self.key(), elapsed_s / PERIOD_S);
        let made_in = |period| hash(&key, address, nonce, period) == token;
        made_in(period) || period.checked_sub(1).is_some_and(made_in)
    }

    fn key(&mut self) -> [u8; 16] {
        let generation = libos::registers().generation;
        match self.key {
            Some((drawn_in, key)) if drawn_in == generation => key,
            _ => {
                let key = libos::rand::bytes();
                self.key = Some((generation, key));
                key
            }
        }
    }
}

fn hash(key: &[u8; 16], address: SocketAddr, nonce: u64, period: u64) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    match address.ip() {
        IpAddr::V4(ip) => hasher.write(&ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => hasher.write(&ip.octets()),
    }
    hasher.write_u16(address.port());
    hasher.write_u64(nonce);
    hasher.write_u64(period);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_address_its_nonce_and_a_while() {
        let mut tokens = Tokens::default();
        let here = SocketAddr::from(([10, 0, 0, 1], 5000));
        let token = tokens.make(here, 7, 19);
        assert!(tokens.is_good(token, here, 7, 19));
        assert!(tokens.is_good(token, here, 7, 29), "the following period");
        assert!(!tokens.is_good(token, here, 7, 30), "too old");
        assert!(!tokens.is_good(token, here, 7, 9), "not yet");
        assert!(!tokens.is_good(token, here, 8, 19));
        assert!(!tokens.is_good(token, ([10, 0, 0, 1], 5001).into(), 7, 19));
        assert!(!tokens.is_good(token, ([10, 0, 0, 2], 5000).into(), 7, 19));
        assert!(!tokens.is_good(token ^ 1, here, 7, 19));
        assert!(!Tokens::default().is_good(token, here, 7, 19), "another server's");
    }
}
