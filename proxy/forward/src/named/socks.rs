//! SOCKS version 5 (RFC 1928): no authentication, and the command CONNECT.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use ::http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use underpass_core::Target;

use crate::error::OpenError;

pub(super) const VERSION: u8 = 5;

const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// Section 6.
#[derive(Clone, Copy)]
enum Reply {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    Ttl = 6,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

pub(super) async fn read(tcp: &mut TcpStream) -> io::Result<Option<Target>> {
    // Section 3: the version, and the methods.
    tcp.read_u8().await?;
    let count = tcp.read_u8().await?;
    let mut methods = vec![0; usize::from(count)];
    tcp.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        tcp.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        return Ok(None);
    }
    tcp.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    // Section 4: the version, the command, a reserved byte and the kind of address.
    let mut head = [0; 4];
    tcp.read_exact(&mut head).await?;
    let [version, command, _, kind] = head;
    if version != VERSION {
        return Ok(None);
    }
    let host = match kind {
        1 => Ipv4Addr::from(tcp.read_u32().await?).to_string(),
        3 => {
            let mut name = vec![0; usize::from(tcp.read_u8().await?)];
            tcp.read_exact(&mut name).await?;
            // Bytes that are not UTF-8 are no name, as the parser below finds.
            String::from_utf8_lossy(&name).into_owned()
        }
        4 => format!("[{}]", Ipv6Addr::from(tcp.read_u128().await?)),
        _ => {
            answer(tcp, Reply::AddressNotSupported).await?;
            return Ok(None);
        }
    };
    let port = tcp.read_u16().await?;
    if command != CONNECT {
        answer(tcp, Reply::CommandNotSupported).await?;
        return Ok(None);
    }
    let target = format!("tcp:{host}:{port}").parse().ok();
    if target.is_none() {
        answer(tcp, Reply::AddressNotSupported).await?;
    }
    Ok(target)
}

pub(super) async fn accept(tcp: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    answer(tcp, Reply::Succeeded).await
}

pub(super) async fn refuse(
    tcp: &mut (impl AsyncWrite + Unpin),
    error: &OpenError,
) -> io::Result<()> {
    let reply = match error {
        OpenError::Refused { code, .. } => match *code {
            StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => Reply::NotAllowed,
            StatusCode::BAD_GATEWAY | StatusCode::NOT_FOUND => Reply::HostUnreachable,
            StatusCode::GATEWAY_TIMEOUT => Reply::Ttl,
            _ => Reply::Failure,
        },
        _ => Reply::Failure,
    };
    answer(tcp, reply).await
}

/// The address of the other end is not told: it is in the cluster's network.
async fn answer(tcp: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    let (reply, kind_of_address) = (reply as u8, 1);
    let nowhere = [0; 6];
    let head = [VERSION, reply, 0, kind_of_address];
    tcp.write_all(&[&head[..], &nowhere].concat()).await
}
