//! The server over real sockets.

use arena::arena::Settings;
use arena_protocol::{ClientMessage, Counter, Direction, Gone, Refusal, ServerMessage, Snapshot};
use libos::net::{SocketAddr, UdpSocket};
use libos::time::{Duration, Instant, sleep, timeout};

struct Client {
    socket: UdpSocket,
    server: SocketAddr,
    player: u8,
    key: u64,
}

async fn start(settings: Settings) -> SocketAddr {
    let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
    let address = socket.local_addr().unwrap();
    libos::task::spawn(async move { arena::serve(socket, settings).await }).detach();
    address
}

async fn hear(socket: &UdpSocket) -> ServerMessage {
    let mut bytes = [0; 2000];
    let (length, _) = timeout(Duration::from_secs(10), socket.recv_from(&mut bytes)).await.expect("silence").unwrap();
    ServerMessage::decode(&bytes[..length]).unwrap_or_else(|| panic!("{:?}", &bytes[..length]))
}

async fn say(socket: &UdpSocket, server: SocketAddr, message: ClientMessage) {
    socket.send_to(message.encode().bytes(), server).await.unwrap();
}

impl Client {
    async fn join(server: SocketAddr) -> Result<Self, Refusal> {
        let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
        let nonce = u64::from_le_bytes(libos::rand::bytes());
        say(&socket, server, ClientMessage::Join { nonce }).await;
        let ServerMessage::Challenge { nonce: theirs, token } = hear(&socket).await else { panic!("no challenge") };
        assert_eq!(theirs, nonce);
        say(&socket, server, ClientMessage::Enter { nonce, token }).await;
        match hear(&socket).await {
            ServerMessage::Welcome { player, key, .. } => Ok(Self { socket, server, player, key }),
            ServerMessage::Refused { reason, .. } => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    async fn snapshot(&self) -> Snapshot {
        match hear(&self.socket).await {
            ServerMessage::Snapshot(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    async fn move_on(&self, sequence: u32) {
        let direction = Direction::new(1, 1).unwrap();
        let (player, key) = (self.player, self.key);
        say(&self.socket, self.server, ClientMessage::Input { player, key, sequence, direction }).await;
    }
}

#[test]
fn players_see_each_other_tick_by_tick() {
    libos::block_on(async {
        let server = start(Settings::default()).await;
        let mut players = Vec::new();
        for _ in 0..32 {
            players.push(Client::join(server).await.unwrap());
        }
        assert_eq!(Client::join(server).await.err(), Some(Refusal::Full));
        players[5].move_on(77).await;
        let mut seen = players[5].snapshot().await;
        let deadline = Instant::now() + Duration::from_secs(10);
        while seen.acknowledged != 77 || seen.players.as_slice().len() < 32 {
            assert!(Instant::now() < deadline, "{seen:?}");
            let next = players[5].snapshot().await;
            assert!(next.tick > seen.tick);
            seen = next;
        }
        assert_eq!(seen.you, players[5].player);
        let leaver = players.pop().unwrap();
        say(&leaver.socket, server, ClientMessage::Leave { player: leaver.player, key: leaver.key }).await;
        while hear(&leaver.socket).await != ServerMessage::Gone(Gone::Left) {}
        assert!(Client::join(server).await.is_ok(), "there is a seat again");
    });
}

/// The schedule is absolute: lateness of one tick is not added to the next.
#[test]
fn ticks_do_not_drift() {
    libos::block_on(async {
        let server = start(Settings::default()).await;
        let client = Client::join(server).await.unwrap();
        let first = client.snapshot().await;
        let begun = Instant::now();
        let mut last = first;
        while last.tick - first.tick < 40 {
            client.move_on(last.tick).await;
            last = client.snapshot().await;
        }
        // The first one may have come late by as much as the host is busy, and so may the last.
        let elapsed = begun.elapsed().as_millis().abs_diff(u128::from(last.tick - first.tick) * 50);
        let slack = u128::from(first.late_us.max(last.late_us)) / 1000 + 100;
        assert!(elapsed <= slack, "{elapsed} ms off after {} ticks, slack {slack}", last.tick - first.tick);
    });
}

#[test]
fn silent_players_go_and_the_counters_tell() {
    libos::block_on(async {
        let server = start(Settings { silence: Duration::from_millis(200), ..Settings::default() }).await;
        let client = Client::join(server).await.unwrap();
        loop {
            match hear(&client.socket).await {
                ServerMessage::Snapshot(_) => {}
                other => break assert_eq!(other, ServerMessage::Gone(Gone::Silent)),
            }
        }
        client.socket.send_to(b"nonsense", server).await.unwrap();
        client.move_on(1).await;
        let status = || async {
            say(&client.socket, server, ClientMessage::Status).await;
            match hear(&client.socket).await {
                ServerMessage::Status(counters) => counters,
                other => panic!("{other:?}"),
            }
        };
        let counters = status().await;
        let counts = [Counter::Players, Counter::Joined, Counter::TimedOut, Counter::Malformed, Counter::BadKeys];
        assert_eq!(counts.map(|counter| counters.get(counter)), [0, 1, 1, 1, 1]);
        // Nobody plays: nothing ticks.
        let ticks = counters.get(Counter::Ticks);
        sleep(Duration::from_millis(200)).await;
        assert_eq!(status().await.get(Counter::Ticks), ticks);
    });
}
