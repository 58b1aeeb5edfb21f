//! The roles in which a connector may dial (PROTOCOL.md, "User sessions").

/// The relation of a connector to its acceptor. The role stands below the session, in the name of the protocol that both ends agree on:
/// an acceptor takes one role, and none of its admission's keys lets a connector of another role in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ConnectorRole {
    /// Serves what the acceptor's side opens.
    #[default]
    Agent,
    /// Opens streams to the acceptor's side, and serves nothing.
    User,
}

impl ConnectorRole {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Agent, Self::User];
}
