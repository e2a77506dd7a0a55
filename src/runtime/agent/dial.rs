//! Connections into a sandbox's network.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects to a port of the network namespace's loopback addresses; IPv4 is tried first.
pub(super) async fn loopback(netns: &Path, port: u16) -> Result<TcpStream, String> {
    let four = match connect(netns, Ipv4Addr::LOCALHOST.into(), port).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    match connect(netns, Ipv6Addr::LOCALHOST.into(), port).await {
        Ok(stream) => Ok(stream),
        Err(six) => {
            let refused = |error: &io::Error| match error.kind() {
                io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                _ => error.to_string(),
            };
            Err(format!(
                "IPv4: dial tcp4 127.0.0.1:{port}: connect: {} IPv6 dial tcp6 [::1]:{port}: connect: {} ",
                refused(&four),
                refused(&six)
            ))
        }
    }
}

async fn connect(netns: &Path, address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let socket = socket_in(netns.to_owned(), address.is_ipv6()).await?;
    let stream = tokio::time::timeout(CONNECT, socket.connect(SocketAddr::new(address, port))).await??;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// A socket that belongs to another network namespace. A socket stays in the namespace of the thread
/// that made it, so a thread enters, makes it and ends: none that has entered is ever used again.
async fn socket_in(netns: PathBuf, six: bool) -> io::Result<TcpSocket> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let make = move || -> io::Result<TcpSocket> {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let namespace = File::open(netns)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let _entered = runtime.enter();
        if six { TcpSocket::new_v6() } else { TcpSocket::new_v4() }
    };
    std::thread::Builder::new().name("dial".into()).spawn(move || {
        // Who asked may have given up.
        let _ = sender.send(make());
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread that dials has ended")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn the_callers_own_namespace_is_reached_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        naru_base::spawn("test", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"hi").await.unwrap();
        });
        let mut stream = loopback(Path::new("/proc/self/ns/net"), port).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hi");
    }

    #[tokio::test]
    async fn a_refusal_names_both_addresses() {
        let text = loopback(Path::new("/proc/self/ns/net"), 1).await.unwrap_err();
        assert!(text.starts_with("IPv4: dial tcp4 127.0.0.1:1: connect: connection refused IPv6 dial"), "{text}");
    }
}
