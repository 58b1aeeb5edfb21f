//! The exchange with a SOCKS5 proxy: CONNECT (RFC 1928), with or without a user and a password (RFC 1929).

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use underpass_dial::ServerAddress;
use zeroize::Zeroizing;

use crate::connect::ProxyError;

const VERSION: u8 = 5;
/// Of the negotiation of RFC 1929.
const LOGIN_VERSION: u8 = 1;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// A user and a password, of 1 to 255 bytes each: the message that carries them.
#[derive(Clone)]
pub(super) struct Login(Zeroizing<Vec<u8>>);

impl Login {
    /// `None` where the lengths are others.
    pub(super) fn new(user: &[u8], password: &[u8]) -> Option<Self> {
        let length = |part: &[u8]| u8::try_from(part.len()).ok().filter(|&length| length > 0);
        let (user_length, password_length) = (length(user)?, length(password)?);
        // As large as it can become: memory that is moved is not erased.
        let mut message = Zeroizing::new(Vec::with_capacity(3 + user.len() + password.len()));
        message.extend([LOGIN_VERSION, user_length]);
        message.extend_from_slice(user);
        message.push(password_length);
        message.extend_from_slice(password);
        Some(Self(message))
    }
}

/// Asks the proxy at the other end of `io` for a way to the server, whose name it resolves. Afterwards `io` leads to the server.
/// No message of the proxy has more than 262 bytes.
pub(super) async fn connect(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &ServerAddress,
    login: Option<&Login>,
) -> Result<(), ProxyError> {
    let request = request(server)?;
    let methods: &[u8] = match login {
        None => &[VERSION, 1, NO_AUTHENTICATION],
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
    };
    send(io, methods).await?;
    let [version, method] = receive(io).await?;
    if version != VERSION {
        return Err(ProxyError::NoSocks);
    }
    match (method, login) {
        (NO_AUTHENTICATION, _) => {}
        (USER_AND_PASSWORD, Some(login)) => {
            send(io, &login.0).await?;
            let [_, status] = receive(io).await?;
            if status != 0 {
                return Err(ProxyError::SocksCredentials { given: true });
            }
        }
        (NO_ACCEPTABLE_METHOD, _) => {
            let given = login.is_some();
            return Err(ProxyError::SocksCredentials { given });
        }
        _ => return Err(ProxyError::NoSocks),
    }
    send(io, &request).await?;
    let [version, reply, _, kind] = receive(io).await?;
    if version != VERSION {
        return Err(ProxyError::NoSocks);
    }
    if reply != 0 {
        return Err(ProxyError::SocksRefused { reply });
    }
    // The address that the proxy has for the connection: nothing depends on it, and the server's bytes follow it.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => {
            let [length] = receive(io).await?;
            usize::from(length)
        }
        _ => return Err(ProxyError::NoSocks),
    };
    let mut address = [0; 255 + 2];
    let address = address.get_mut(..length + 2).unwrap_or_default();
    io.read_exact(address).await.map_err(lost)?;
    Ok(())
}

fn request(server: &ServerAddress) -> Result<Vec<u8>, ProxyError> {
    let mut request = vec![VERSION, CONNECT, 0];
    match server.host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend(address.octets());
        }
        Err(_) => {
            let length = u8::try_from(server.host.len());
            request.extend([NAME, length.map_err(|_| ProxyError::LongName)?]);
            request.extend(server.host.as_bytes());
        }
    }
    request.extend(server.port.to_be_bytes());
    Ok(request)
}

async fn send(io: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<(), ProxyError> {
    io.write_all(message).await.map_err(ProxyError::Io)?;
    io.flush().await.map_err(ProxyError::Io)
}

async fn receive<const N: usize>(io: &mut (impl AsyncRead + Unpin)) -> Result<[u8; N], ProxyError> {
    let mut message = [0; N];
    io.read_exact(&mut message).await.map_err(lost)?;
    Ok(message)
}

fn lost(error: io::Error) -> ProxyError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ProxyError::Closed,
        _ => ProxyError::Io(error),
    }
}

/// The meaning of a reply (RFC 1928, section 6).
pub(super) fn meaning(reply: u8) -> &'static str {
    match reply {
        2 => "its rules do not allow the connection",
        3 => "it cannot reach the server's network",
        4 => "it cannot reach the server",
        5 => "the server refuses the connection",
        6 => "the way to the server is too long",
        7 => "it makes no connections",
        8 => "it does not know this kind of address",
        _ => "it failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &[u8] = &[5, 1, 0];
    const ACCEPTED: &[u8] = &[5, 0, 0, 1, 10, 0, 0, 1, 0, 80];

    fn server(host: &str) -> ServerAddress {
        ServerAddress::new(host, 6443)
    }

    /// A proxy that expects and says this in turn, and then a server that says `x`.
    async fn exchange(
        server: &ServerAddress,
        login: Option<&Login>,
        turns: &[(&[u8], &[u8])],
    ) -> Result<u8, ProxyError> {
        let (mut here, mut there) = tokio::io::duplex(1024);
        let proxy = async {
            for (expected, answer) in turns {
                let mut asked = vec![0; expected.len()];
                there.read_exact(&mut asked).await.unwrap();
                assert_eq!(asked, *expected);
                // One by one: a message may come in pieces.
                for byte in *answer {
                    there.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
            let _ = there.write_all(b"x").await;
            drop(there);
        };
        let connecting = async {
            connect(&mut here, server, login).await?;
            Ok(here.read_u8().await.unwrap())
        };
        tokio::join!(connecting, proxy).0
    }

    #[tokio::test]
    async fn the_proxy_is_asked_for_names_and_addresses() {
        let name = b"\x05\x01\x00\x03\x0bapi.example\x19\x2b";
        let ipv4 = b"\x05\x01\x00\x01\x0a\x00\x00\x01\x19\x2b";
        let ipv6 = [b"\x05\x01\x00\x04".as_slice(), &[0; 15], &[1], b"\x19\x2b"].concat();
        let named_answer = b"\x05\x00\x00\x03\x02ab\x00\x50";
        let long_answer = [b"\x05\x00\x00\x04".as_slice(), &[7; 18]].concat();
        for (host, request, answer) in [
            ("api.example", name.as_slice(), ACCEPTED),
            ("10.0.0.1", ipv4, named_answer),
            ("::1", &ipv6, &long_answer),
        ] {
            let turns = [(GREETING, [5, 0].as_slice()), (request, answer)];
            let heard = exchange(&server(host), None, &turns).await;
            assert_eq!(heard.unwrap(), b'x', "{host}");
        }
        let long = exchange(&server(&"a".repeat(256)), None, &[]).await;
        assert!(matches!(long, Err(ProxyError::LongName)));
    }

    #[tokio::test]
    async fn a_user_and_a_password_are_given_where_the_proxy_wants_them() {
        let login = Login::new(b"alice", b"s3cr@t").unwrap();
        let offer = [5, 2, 0, 2].as_slice();
        let message = b"\x01\x05alice\x06s3cr@t".as_slice();
        let request = b"\x05\x01\x00\x01\x0a\x00\x00\x01\x19\x2b".as_slice();
        let server = server("10.0.0.1");
        let right = [
            (offer, [5, 2].as_slice()),
            (message, &[1, 0]),
            (request, ACCEPTED),
        ];
        exchange(&server, Some(&login), &right).await.unwrap();
        let unneeded = [(offer, [5, 0].as_slice()), (request, ACCEPTED)];
        exchange(&server, Some(&login), &unneeded).await.unwrap();
        let wrong = [(offer, [5, 2].as_slice()), (message, &[1, 1])];
        let refused = exchange(&server, Some(&login), &wrong).await;
        assert!(matches!(
            refused,
            Err(ProxyError::SocksCredentials { given: true })
        ));
        let wanted = [(GREETING, [5, 0xff].as_slice())];
        let refused = exchange(&server, None, &wanted).await;
        assert!(matches!(
            refused,
            Err(ProxyError::SocksCredentials { given: false })
        ));
        for (user, password) in [("", "p"), ("u", ""), (&"u".repeat(256), "p")] {
            assert!(Login::new(user.as_bytes(), password.as_bytes()).is_none());
        }
    }

    #[tokio::test]
    async fn refusals_are_told_apart() {
        let request = b"\x05\x01\x00\x01\x0a\x00\x00\x01\x19\x2b".as_slice();
        let server = server("10.0.0.1");
        let refusal = [5, 5, 0, 1, 0, 0, 0, 0, 0, 0];
        let turns = [(GREETING, [5, 0].as_slice()), (request, &refusal)];
        let error = exchange(&server, None, &turns).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the proxy gives no way to the server: the server refuses the connection"
        );
        for odd in [b"HT".as_slice(), &[5, 1], &[5, 2], &[4, 0]] {
            let error = exchange(&server, None, &[(GREETING, odd)]).await;
            assert!(matches!(error, Err(ProxyError::NoSocks)), "{odd:?}");
        }
        for odd in [b"HTTP".as_slice(), &[5, 0, 0, 9]] {
            let turns = [(GREETING, [5, 0].as_slice()), (request, odd)];
            let error = exchange(&server, None, &turns).await;
            assert!(matches!(error, Err(ProxyError::NoSocks)), "{odd:?}");
        }
        let turns = [(GREETING, [5, 0].as_slice()), (request, &[5, 0, 0, 1])];
        let cut = exchange(&server, None, &turns).await;
        assert!(matches!(cut, Err(ProxyError::Closed)));
    }
}
