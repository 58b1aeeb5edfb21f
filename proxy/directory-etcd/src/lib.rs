//! The directory on etcd: a [`Store`](underpass_directory::Store) that several servers share.
//!
//! One key has the directory's revision. Each change is one transaction that compares this key's value and sets it, so that of two
//! writers one is told that the other was faster; a change that is more than etcd takes in one transaction is put beside the
//! objects first, and one transaction makes it count. A reading is as of one revision of etcd's. The revision is watched,
//! and read anew wherever the watch may have missed something.
//!
//! etcd's API is spoken over [`tonic`] and one HTTP/2 connection at a time, with the messages in this crate. The crate `etcd-client`
//! needs `protoc` wherever it is built, and reads the files of its certificates once.

mod client;
mod config;
mod error;
mod keys;
mod large;
mod limits;
mod link;
mod mark;
mod reading;
mod state;
mod store;
mod tls;
mod watch;
mod wire;

pub use self::config::{
    ClientCertificate, ConfigError, Endpoint, EndpointError, EtcdConfig, EtcdUser, Prefix,
    PrefixError,
};
pub use self::error::EtcdError;
pub use self::store::{EtcdStore, Missing};
