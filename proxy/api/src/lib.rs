//! The server's own API below `/v1`: its requests and answers as types.
//!
//! JSON. Every object has a name and a revision, which is its `ETag`. [`View`] is an object as a client sees it, [`New`] one
//! to be made, [`List`] a page of them, and [`Problem`] the answer to a request that was not done.
//!
//! With the feature `client` there is a [`Client`], over HTTPS or the server's socket; with `openapi` each type has a schema.

mod access;
mod agents;
mod asciicast;
mod bindings;
#[cfg(feature = "client")]
pub mod client;
mod clusters;
mod direct;
mod exit;
mod groups;
mod join;
mod login;
mod myself;
mod object;
mod operations;
mod passwords;
mod problem;
mod recordings;
mod registration;
mod rotation;
mod server;
mod sessions;
mod shells;
mod tokens;
mod users;

pub use self::{
    access::{AccessGiven, AccessRequest},
    agents::{AgentMade, AgentRequest, AgentView},
    asciicast::{BadCast, CastData, CastEvent, CastHeader, CastNote, CastReader},
    bindings::{BindingSpec, BindingStatus},
    clusters::{ClusterSpec, ClusterStatus, ServingAgent},
    direct::{CredentialSpec, CredentialStatus, DirectSpec, Reachability, Secret},
    exit::ProgramExit,
    groups::{GroupSpec, GroupStatus},
    join::{
        JOIN_TOKEN_PREFIX, JoinAnswer, JoinRefusal, JoinRequest, JoinTokenMade, JoinTokenRequest,
        JoinTokenView, UnknownRefusal,
    },
    login::{DeviceLoginWay, LoginRequest, LoginWays},
    myself::{Myself, Reachable},
    object::{List, New, View, segment},
    operations::{
        BadOperationId, NodeList, NodeView, OperationEvent, OperationId, OperationList,
        OperationProblem, OperationQuestion, OperationRecord, OperationRefusal, OperationRequest,
        OperationState, OutputBytes, OutputPage, OutputPiece, OutputStream,
    },
    passwords::NewPassword,
    problem::{About, Problem},
    recordings::{
        RecorderWord, RecordingEvent, RecordingFault, RecordingList, RecordingPlace,
        RecordingState, RecordingView, ShellRecording,
    },
    registration::{
        CREDENTIALS_TARGET, OfferedCredential, REGISTRATION_LINE, RegistrationAnswer,
        RegistrationRefusal, RegistrationRequest, RegistrationStatus,
    },
    rotation::{
        AGENT_KEY, KeyAnswer, KeyQuestion, KeyRotated, NextKeyAnswer, NextKeyChallenge,
        NextKeyRefusal, NextKeyRequest,
    },
    server::ServerInfo,
    sessions::{HTTP_TARGET, SESSIONS, SessionMade, SessionRequest},
    shells::{
        AttachQuery, BadAttachQuery, BadShellCommand, CHANNEL_PROTOCOL, SHELL_PROTOCOL,
        ShellAnswer, ShellChannel, ShellEnd, ShellEvent, ShellList, ShellProblem, ShellQuestion,
        ShellRefusal, ShellRequest, ShellView, TerminalSize, ViewerRequest, ViewerWrites,
    },
    tokens::{TokenMade, TokenRequest, TokenView},
    users::{UserSpec, UserStatus},
};

#[cfg(feature = "client")]
pub use self::client::Client;

/// The beginning of every path of the API.
pub const PREFIX: &str = "/v1/";

/// Where one logs in.
pub const LOGIN: &str = "/v1/login";

/// Where an agent registers its key with a join token.
pub const JOIN: &str = "/v1/join";

/// Facts about the server.
pub const SERVER: &str = "/v1/server";
