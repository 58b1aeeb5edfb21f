//! Every bound of the agent, each with its reason.

use std::time::Duration;

/// Streams to targets beside the API server, at once. Each holds a socket and, while it is busy, some windows of 256 KiB; half of
/// the streams that a session may have, so that calls of the API find room. No more than half of the open files that the system
/// allows, either.
pub(crate) const TARGET_STREAMS: usize = 2048;

/// From a stream's beginning to the connection to its target, lookups included. The peer waits three seconds for the answer, of
/// which the path takes a part, and a refusal that comes in time has a reason. A lost SYN is sent again after one second.
pub(crate) const TARGET_TIME: Duration = Duration::from_secs(2);

/// Records of one list: a server shows no more, and a caller looks for no older one without its id.
pub(crate) const OPERATION_LIST: usize = 100;

/// A question about operations: their arguments have 8 KiB, which JSON may escape.
pub(crate) const QUESTION_BYTES: usize = 64 * 1024;

/// A line of a recorder's: two numbers.
pub(crate) const RECORDER_LINE: u64 = 256;

/// The time for a question, which follows the stream's header at once.
pub(crate) const QUESTION_TIME: Duration = Duration::from_secs(10);

/// Lookups of names and paths that block a thread, at once: the system's resolver asks for 10 s and more, and the threads that are
/// left (of 512) read the files of the API server's credential.
pub(crate) const LOOKUPS: usize = 128;

/// Those of one user: it takes sixteen users whose lookups all hang, and not one, to hold up another's. A resolver that answers within
/// 10 ms finds 800 names a second for each.
pub(crate) const LOOKUPS_OF_USER: usize = 8;

/// Services that are asked for at once. Their answers have [`SERVICE_BYTES`] each at the most.
pub(crate) const SERVICE_QUESTIONS: usize = 8;

/// The list of a service's endpoints. [`SLICES`] slices of a hundred endpoints take some 2 MiB.
pub(crate) const SERVICE_BYTES: usize = 4 * 1024 * 1024;

/// EndpointSlices of one service that are read: 3,200 endpoints, of which a stream needs one.
pub(crate) const SLICES: usize = 32;

/// How long a service's endpoints count. Pods that are deleted stay ready for a moment in kube-proxy's rules as well, and a
/// connection that fails has them read again.
pub(crate) const SERVICE_AGE: Duration = Duration::from_secs(5);

/// How long it counts that a service could not be looked up: clients that try again must not ask the API server each time, and
/// their users must not wait for what they have just repaired.
pub(crate) const SERVICE_FAILURE_AGE: Duration = Duration::from_secs(1);

/// Services whose endpoints are remembered: some hundred bytes for each endpoint.
pub(crate) const SERVICES: usize = 256;

/// The time in which streams have to end once their session is over, so that nothing of theirs keeps the agent from stopping.
pub(crate) const TASKS_TIME: Duration = Duration::from_secs(5);

/// How old the policy may be: its file is looked at so often.
pub(crate) const POLICY_AGE: Duration = Duration::from_secs(2);

/// A file with CAs: `ca-certificates` has 220 KiB with all that browsers trust.
pub(crate) const CA_FILE_BYTES: u64 = 1024 * 1024;

/// A key file: two keys of 52 bytes, and lines about them, of which a node's name has 253 bytes at the most.
pub(crate) const KEY_FILE_BYTES: u64 = 1024;

/// The time for other processes of the agent to write a key file that they share: each replaces it within some milliseconds, on a slow disk
/// within a second.
pub(crate) const KEY_LOCK_TIME: Duration = Duration::from_secs(3);

/// How often its lock is tried meanwhile.
pub(crate) const KEY_LOCK_AGAIN: Duration = Duration::from_millis(20);

/// The shortest lifetime of a key: a rotation has to end before the next one begins. Less than an hour is for tests.
pub(crate) const KEY_LIFETIME_LEAST: Duration = Duration::from_secs(1);

/// The longest: ten years are as good as never.
pub(crate) const KEY_LIFETIME_MOST: Duration = Duration::from_secs(3650 * 86_400);

/// The longest wait before a key that is old enough is rotated: of processes that share it, the first to do so is mostly alone.
pub(crate) const ROTATE_SPREAD: Duration = Duration::from_secs(60);

/// The longest wait after a rotation that failed once. Doubled by each further failure.
pub(crate) const ROTATE_AGAIN: Duration = Duration::from_secs(5);

/// The longest of these waits: the key goes on, and an operator reads the log some time.
pub(crate) const ROTATE_AGAIN_MOST: Duration = Duration::from_secs(3600);

/// The time in which a server answers to a next key: it writes that to its disk.
pub(crate) const NEXT_KEY_TIME: Duration = Duration::from_secs(15);

/// The time for a handshake with the next key, before the agent goes on with other things: a path may fail meanwhile.
pub(crate) const PROVE_TIME: Duration = Duration::from_secs(10);

/// The pause between two attempts of it.
pub(crate) const PROVE_AGAIN: Duration = Duration::from_millis(250);

/// How often an agent that drains reads its key again: well within the ten seconds for which the server waits for a proof.
pub(crate) const FOLLOW_KEY: Duration = Duration::from_secs(2);

/// A line about a key on a stream: two keys and two signatures have 300 bytes.
pub(crate) const KEY_LINE: u64 = 2048;

/// Questions about the key that wait for their turn: each rotation takes a second.
pub(crate) const KEY_QUESTIONS: usize = 4;

/// A file with a join token, which has 53 bytes.
pub(crate) const JOIN_TOKEN_FILE_BYTES: u64 = 1024;

/// A file with a ServiceAccount's token: a JWT of some 1,500 bytes, with as many audiences and names as fit into a header.
pub(crate) const ACCOUNT_TOKEN_FILE_BYTES: u64 = 16 * 1024;

/// The longest wait after a first join that did not reach the server, or that it was too busy for. Doubled by each further one; the
/// wait itself is drawn from zero up, as for the tunnel.
pub(crate) const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// The longest of these waits: a thousand nodes whose server is away ask it 33 times a second.
pub(crate) const JOIN_AGAIN_MOST: Duration = Duration::from_secs(60);

/// The wait after a join that the server refused, unless the token's file changes before: no refusal goes away by itself, except
/// where the server's directory was put back.
pub(crate) const JOIN_REFUSED: Duration = Duration::from_secs(10 * 60);

/// How often a join token's file is looked at meanwhile.
pub(crate) const JOIN_TOKEN_FILE_AGE: Duration = Duration::from_secs(2);

/// The longest wait before an agent joins whose key the server does not know (any more): a server that has lost its directory hears
/// of all agents in the same moment.
pub(crate) const JOIN_SPREAD: Duration = Duration::from_secs(1);

/// How long a token counts that is registered at the server, as most clusters give it: a stolen one ends soon, and one that is renewed
/// every half an hour outlasts an agent that is away for that long.
pub(crate) const REGISTERED_TOKEN: Duration = Duration::from_secs(60 * 60);

/// The time for such a token: the server waits for 20 s for it.
pub(crate) const REGISTER_TOKEN_TIME: Duration = Duration::from_secs(10);

/// The time for the server to answer to it: it writes it to its disk.
pub(crate) const REGISTER_ANSWER_TIME: Duration = Duration::from_secs(10);

/// The server's answer to it: a reason in a few lines.
pub(crate) const REGISTER_ANSWER_BYTES: usize = 8 * 1024;

/// The longest wait after a token that was not registered, once. Doubled by each further one.
pub(crate) const REGISTER_AGAIN: Duration = Duration::from_secs(5);

/// The longest of these waits: an administrator has just allowed it, and waits.
pub(crate) const REGISTER_AGAIN_MOST: Duration = Duration::from_secs(60);

/// How long after a rotation the agent registers a credential under its new key, at the latest: the server has deleted the one from before.
pub(crate) const REGISTER_KEY_AGE: Duration = Duration::from_secs(5);

/// Attempts to put a key into a Secret that other agents change: each of them wins once.
pub(crate) const KEY_SECRET_ATTEMPTS: usize = 8;

/// The longest wait after an API server that did not answer, or was too busy to, once. Doubled by each further one.
pub(crate) const KEY_SECRET_AGAIN: Duration = Duration::from_secs(1);

/// The longest.
pub(crate) const KEY_SECRET_AGAIN_MOST: Duration = Duration::from_secs(30);

/// Bytes that are read of a viewer's WebSocket at once, and that wait to be written to it: some screens of text.
pub(crate) const VIEWER_BUFFER_BYTES: usize = 64 * 1024;

/// A message of a viewer's: a front end may send what was pasted as one.
pub(crate) const VIEWER_MESSAGE_BYTES: usize = 1024 * 1024;

/// Output in one message to a viewer.
pub(crate) const VIEWER_PIECE_BYTES: usize = 16 * 1024;

/// The time for a viewer to answer the end of its WebSocket.
pub(crate) const VIEWER_CLOSING_TIME: Duration = Duration::from_secs(5);

/// Connections to the listener of one shell, at a time. kubectl has one, over HTTP/2, and one more for each exec and port-forward.
pub(crate) const SHELL_CONNECTIONS: usize = 64;

/// Requests of one shell to the API server, at a time, its watches and upgraded streams among them. A dashboard such as k9s has some tens;
/// each has a stream of 64 KiB in memory.
pub(crate) const SHELL_REQUESTS: usize = 128;

/// The time to look for a shell's kubectl, which is for a hint alone.
pub(crate) const SHELL_LOOK: Duration = Duration::from_secs(1);

/// How long a shell's programs may ask the API server without a stream of the server's about the shell, by which it takes the permission
/// back. A server that is started again, or a session that is made anew, has one in seconds where the shell has a viewer.
pub(crate) const SHELL_UNKEPT: Duration = Duration::from_secs(60);
