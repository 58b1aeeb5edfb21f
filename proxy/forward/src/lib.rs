//! Connections to services of clusters, through an Underpass server.
//!
//! - [`Tunnel`] opens them: HTTP CONNECT over few HTTP/2 connections, which are made anew when they are lost.
//! - [`Listener`] takes connections on this machine, at a port or a Unix socket: for one target each ([`Rule`]), or for the targets that their clients name, by
//!   SOCKS5 or HTTP CONNECT.
//!
//! An end of one direction is carried as an end, and a reset as a reset: a transfer that was cut never looks complete.

mod connection;
mod error;
mod limits;
mod listener;
mod named;
mod near;
mod rule;
mod server;
mod socket;
mod stream;
mod tunnel;

pub use underpass_https::Credentials;

pub use self::{
    error::{DialError, OpenError},
    listener::{Event, Events, Listener},
    near::{Client, ListenError},
    rule::{Listen, ListenAddress, Rule, RuleError},
    server::{Server, ServerError},
    socket::SocketError,
    stream::Stream,
    tunnel::{State, Tunnel},
};
