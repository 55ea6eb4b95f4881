//! The echo service's logic.
#![cfg_attr(firn_guest, no_std)]

use libos::net::{Error, TcpListener, TcpStream, UdpSocket};

/// Takes connections, for ever.
///
/// # Errors
/// What the network says about the listener.
pub async fn serve_tcp(listener: TcpListener) -> Result<(), Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        libos::task::spawn(echo(stream)).detach();
    }
}

/// Sends back what comes until the peer has ended its stream, then ends ours.
async fn echo(stream: TcpStream) {
    let mut bytes = [0; 512];
    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

/// Sends back every datagram, for ever. One that cannot be sent back is lost, as datagrams are.
pub async fn serve_udp(socket: UdpSocket) {
    let mut bytes = [0; 1472];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            let _ = socket.send_to(&bytes[..length], from).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libos::time::{Duration, timeout};

    #[test]
    fn streams_come_back_to_the_end_and_many_at_a_time() {
        libos::block_on(async {
            let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
            let address = listener.local_addr().unwrap();
            libos::task::spawn(async { serve_tcp(listener).await }).detach();
            let mut streams = Vec::new();
            for n in 0..20u8 {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(&[n; 3000]).await.unwrap();
                stream.close_write().unwrap();
                streams.push((n, stream));
            }
            for (n, stream) in streams {
                let mut got = Vec::new();
                let mut bytes = [0; 1000];
                while let Ok(Ok(length @ 1..)) = timeout(Duration::from_secs(10), stream.read(&mut bytes)).await {
                    got.extend_from_slice(&bytes[..length]);
                }
                assert_eq!(got, [n; 3000]);
            }
        });
    }

    #[test]
    fn datagrams_come_back_also_empty_ones() {
        libos::block_on(async {
            let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
            let address = socket.local_addr().unwrap();
            libos::task::spawn(serve_udp(socket)).detach();
            let client = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
            let mut bytes = [0; 2000];
            for length in [0, 1, 1000, 1472] {
                client.send_to(&vec![7; length], address).await.unwrap();
                let answer = timeout(Duration::from_secs(10), client.recv_from(&mut bytes)).await.unwrap();
                assert_eq!(answer, Ok((length, address)));
            }
        });
    }
}
