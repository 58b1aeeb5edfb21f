//! Bounds on a client's cost to the listener before the proxy or the tunnel, whose own bounds then hold,
//! know of it. Each with its reason.

use std::time::Duration;

/// Silence of a shell's client before it is looked at whether it acknowledges anything: kubectl and client-go send a ping every five
/// seconds, and other clients need not.
pub(crate) const SHELL_SILENCE: Duration = Duration::from_secs(60);

/// Time in which a client that is silent must acknowledge something, be it that it has no room for more.
pub(crate) const SHELL_UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Time that the relay of an upgraded connection has to end by itself once the client's socket has failed: to pass on the bytes that came
/// before takes a moment, unless the target takes none.
pub(crate) const VANISHED_GRACE: Duration = Duration::from_secs(5);

/// How often in a row it has not answered then: a packet or two may be lost.
pub(crate) const SHELL_UNANSWERED: u8 = 3;

/// How often the server looks at the files of its certificate: soon after they were renewed, which happens days before the old
/// one ends.
pub(crate) const TLS_FILES_AGE: Duration = Duration::from_secs(10);

/// A file of the data directory that is read as a whole. All of them are smaller by far.
pub(crate) const DATA_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// An audit policy. One with thousands of rules is smaller.
pub(crate) const AUDIT_POLICY_BYTES: u64 = 4 * 1024 * 1024;

/// Files of `--service-ca-dir` that are read at once, each by a thread: a cluster has one reading at a time, and a file system that
/// hangs takes no more threads than these.
pub(crate) const SERVICE_CA_READINGS: usize = 8;

/// Time for a client's TLS handshake: two round trips, no human.
pub(crate) const TLS_TIME: Duration = Duration::from_secs(10);

/// Files that are no clients' connections, and no second ones of upgraded connections, which have places as well: the directory, logs, the
/// sockets of QUIC, connections to direct clusters and to identity providers, the operator's socket. Where the system gives few, half of
/// them.
pub(crate) const OTHER_FILES: u64 = 1024;

/// Room on the disk that the directory's file keeps beyond its length, at the least: a revocation writes some ten pages of
/// 4 KiB, and the file doubles where none of them is free.
pub(crate) const DIRECTORY_ROOM: u64 = 1024 * 1024;

/// How long a connection that was closed for another one may take to let go of its place, before one more is closed.
pub(crate) const ROOM_TIME: Duration = Duration::from_millis(100);

/// Wait after `accept` failed for lack of resources (file descriptors, memory): trying again at
/// once would only spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The same where a connection was closed for it: its task has let go of the file by then.
pub(crate) const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// How long a gauge is shown after it was last set, which each request for metrics does: those of agents
/// that are gone go.
pub(crate) const METRICS_IDLE: Duration = Duration::from_secs(1);

/// Connections for metrics at once: a monitoring system has one or two. Beyond half of them one source has a quarter, and the
/// oldest of the source with the most goes for a newcomer.
pub(crate) const METRICS_CONNECTIONS: usize = 16;

/// Time for the head of the first request there: a monitoring system asks at once.
pub(crate) const METRICS_FIRST: Duration = Duration::from_secs(10);

/// Time between two requests there: Prometheus asks every 15 s to a minute.
pub(crate) const METRICS_TIME: Duration = Duration::from_secs(120);

/// How often the log says that connections are refused for their number or for want of a PROXY protocol header, or cannot be
/// accepted: a flood must not fill the server's disk as well.
pub(crate) const SAME_NEWS: Duration = Duration::from_secs(10);

/// Time to write the rest of the audit log when the server stops: a disk that takes longer is stuck.
pub(crate) const AUDIT_FLUSH: Duration = Duration::from_secs(5);

/// The audit log of callers without an identity is put aside when it has so many bytes, and so many files of it are
/// kept: 40 MiB in all, a week of one busy scanner. Anybody can rotate it away.
pub(crate) const STRANGERS_LOG_BYTES: u64 = 10 * 1024 * 1024;
pub(crate) const STRANGERS_LOG_FILES: usize = 3;

/// The body of a request to the API: an object of the directory, and its wrapping. It is read of those only who may change
/// such objects.
pub(crate) const API_BODY: usize = 1024 * 1024;

/// JSON values in it: a group of as many users as an object holds ([`underpass_core::limits::OBJECT_BYTES`]) by names of
/// ten bytes. A hostile body of so many takes some 10 MiB as values, of a caller who may change such objects.
pub(crate) const API_BODY_VALUES: usize = 40_000;

/// The same for a token, an agent or a password, which anybody may ask for who has one: a scope of
/// [`underpass_core::limits::SCOPE_CLUSTERS`], a description of [`DESCRIPTION_CHARS`], or two passwords.
pub(crate) const API_SMALL_BODY: usize = 8 * 1024;

/// The same for letting somebody in: their groups, and their clusters by name.
pub(crate) const API_ACCESS_BODY: usize = 64 * 1024;

/// Requests to the API that are being answered, until their answer's last byte is sent. The largest answer is
/// [`API_PAGE_BYTES`] and an object: 200 MiB in all, where nobody reads. The largest body is [`API_BODY`], with
/// [`API_BODY_VALUES`], for callers only who administer something. One authenticator's users have three quarters of the places
/// at the most (`share.rs` of the proxy).
pub(crate) const API_PLACES: usize = 128;

/// Those of all users of one authority but the directory, which may give ever new names.
pub(crate) const API_PLACES_PER_AUTHORITY: usize = API_PLACES / 4 * 3;

/// Those of one user: a program that makes ten requests at once, and some more.
pub(crate) const API_PLACES_PER_USER: usize = 16;

/// How long an answer may take to be read.
pub(crate) const API_ANSWER_TIME: Duration = Duration::from_secs(60);

/// Bytes of an answer that hyper has at once: they wait there for a client that reads nothing.
pub(crate) const API_ANSWER_PIECE: usize = 8 * 1024;

/// Changes of the directory that one user may ask for at once: somebody's first script.
pub(crate) const CHANGES_PER_USER: u32 = 500;

/// One more after each. Every change looks the directory over, syncs a file and is written into the audit log: 86,400 a day
/// of one user are some 100 MB there.
pub(crate) const CHANGE_PER_USER_EVERY: Duration = Duration::from_secs(1);

/// Users whose changes are counted, of some hundred bytes each.
pub(crate) const CHANGING_USERS: usize = 10_000;

/// The same of all users of one authenticator, logins among them: everybody's in the morning.
pub(crate) const CHANGES_PER_AUTHORITY: u32 = 5000;

/// One more after each: twenty a second.
pub(crate) const CHANGE_PER_AUTHORITY_EVERY: Duration = Duration::from_millis(50);

/// The same of all users whom somebody else than the directory vouches for.
pub(crate) const CHANGES: u32 = 3 * CHANGES_PER_AUTHORITY;

/// One more after each: sixty a second, where a directory on a slow disk makes a hundred.
pub(crate) const CHANGE_EVERY: Duration = Duration::from_millis(17);

/// Authenticators whose users' changes are counted: more than any installation has.
pub(crate) const CHANGING_AUTHORITIES: usize = 256;

/// Characters of a problem's text, with quotes of a request.
pub(crate) const PROBLEM_CHARS: usize = 2048;

/// The body of a login (*unauthenticated*, but for the credential in its head, which is checked first): how long the token
/// lasts, a scope and a description of [`DESCRIPTION_CHARS`].
pub(crate) const LOGIN_BODY: usize = 4 * 1024;

/// The body of an agent that joins (*unauthenticated*, but for the join token in its head, which is looked up first): a key, a
/// signature, the names of a cluster and of a node, a role, and a node's labels with the quotes around them.
pub(crate) const JOIN_BODY: usize = 2048 + 2 * underpass_core::limits::NODE_LABELS_BYTES;

/// Agents on nodes that one call may ask whether they serve the API server, since each question is a stream. The next call asks other
/// agents of the cluster.
pub(crate) const STAND_INS_ASKED: usize = 64;

/// The same at once: where few of them serve, a call waits for a few answers one after the other, and not for 64.
pub(crate) const STAND_INS_ASKED_AT_ONCE: usize = 8;

/// How long a call looks for such an agent. An answer is due within three seconds, and a little more lets the server find out, and
/// remember, that there is none.
pub(crate) const STAND_IN_SEARCH: Duration = Duration::from_millis(3500);

/// How long it counts that an agent on a node serves the API server, and is asked before others.
pub(crate) const STAND_IN_SERVES: Duration = Duration::from_secs(5 * 60);

/// How long it counts that one declines, or has not answered: its policy may change, and clients that try again must not ask it each time.
pub(crate) const STAND_IN_DECLINES: Duration = Duration::from_secs(10);

/// Answers of agents on nodes that are remembered, of some fifty bytes each.
pub(crate) const STAND_IN_ANSWERS: usize = 10_000;

/// Sessions of one key of an agent on a node: the one in use, one that takes its place, and as many during a rollout. A node
/// that is captured takes no others' with its key.
pub(crate) const SESSIONS_OF_NODE: usize = 4;

/// Sessions of all agents on nodes of a cluster: each of them that the directory takes has one.
pub(crate) const SESSIONS_OF_NODES: usize = underpass_core::limits::AGENTS_PER_CLUSTER;

/// Sessions of one user at a time: terminals, each with a program. A user who vanishes leaves what each keeps for them until the resume
/// window is over, [`SESSION_UNACKED`](underpass_tunnel::limits::SESSION_UNACKED) of unread bytes at the most: 1 GiB in all.
pub(crate) const SESSIONS_OF_USER: usize = 16;

/// Sessions of all users. Each costs some connections, as users over TLS do, which the port's places bound.
pub(crate) const SESSIONS_OF_USERS: usize = 8192;

/// Streams of one user's session, each of which is a connection to the front and has one of the port's places: a tool that watches
/// everything of a cluster has some hundred.
pub(crate) const SESSION_STREAMS: u32 = 512;

/// How long a session waits, once its credential counts no more, for the ends of its streams: the front ends each with words for its
/// client, which takes a round trip. Upgraded ones end at once, and no request begins anew. It is over within the second of rule 12.
pub(crate) const SESSION_REVOKED_STREAMS: Duration = Duration::from_millis(600);

/// How long a registered key waits for its session: a dial over WebSocket behind QUIC's head start, some times.
pub(crate) const SESSION_KEY_UNUSED: Duration = Duration::from_secs(60);

/// Agents in the answer about a cluster that serve it: a few, and their number is told beside them.
pub(crate) const SERVING_SHOWN: usize = 8;

/// Reviews of pods' tokens that a cluster is asked for at once, by strangers until it answers: each is a call through its tunnel.
pub(crate) const JOIN_REVIEWS: u32 = 100;

/// One more after each, ten times as often as an account's new agents have a turn among the changes
/// ([`CHANGE_PER_USER_EVERY`]): a DaemonSet of a thousand nodes has joined after nine minutes, half of it at once.
pub(crate) const JOIN_REVIEW_EVERY: Duration = Duration::from_millis(100);

/// Clusters whose reviews are counted, of some hundred bytes each; only those of the directory are.
pub(crate) const JOIN_REVIEW_CLUSTERS: usize = 10_000;

/// The time between two agents of a cluster that come again since there was no place for them: a join takes a place for some
/// milliseconds, on a slow disk for some tens.
pub(crate) const JOIN_PLACE_EVERY: Duration = Duration::from_millis(20);

/// Turns in the line of agents that wait to join, of one cluster: agents wait for ten minutes at the most, and ask again then.
pub(crate) const JOIN_LINE: u32 = 600;

/// How long a cluster has for a review.
pub(crate) const JOIN_REVIEW_TIME: Duration = Duration::from_secs(10);

/// Seconds after which a pod tries again whose cluster could not be asked: its agent may have been restarted.
pub(crate) const JOIN_REVIEW_AGAIN: u64 = 5;

/// The time for the line of an agent that registers a credential: it asks its API server for the token once the stream is accepted.
pub(crate) const REGISTRATION_TIME: Duration = Duration::from_secs(20);

/// How long an agent that has taken a call is away before the call is made again by another way, where it may be: as long as an agent's
/// answer to the stream is waited for, and longer than an agent takes that only changes its transport.
pub(crate) const CALL_ELSEWHERE: Duration = Duration::from_secs(3);

/// How often a call that would go by a registered credential looks whether the cluster's agent may still be on its way back: for two
/// seconds, each look a few sessions' locks. Also how often one whose agent is away looks for another way, for as long as it waits.
pub(crate) const AGENT_AWAY_LOOK: Duration = Duration::from_millis(100);

/// Streams of a session about its cluster's credential at once: the one that its agent has given up, which may be seen later than the one
/// that follows it.
pub(crate) const REGISTRATION_STREAMS: usize = 2;

/// Credentials that the agents of a cluster register at once: some agents that start together, and again. Each is a write of the
/// directory.
pub(crate) const REGISTRATIONS: u32 = 20;

/// One more after each: an agent registers every half an hour.
pub(crate) const REGISTRATION_EVERY: Duration = Duration::from_secs(30);

/// Clusters whose registrations are counted, of some hundred bytes each; only those of the directory are.
pub(crate) const REGISTERING_CLUSTERS: usize = 10_000;

/// How long agents may join with a join token, unless its maker says otherwise: until the command is pasted.
pub(crate) const JOIN_TOKEN: Duration = Duration::from_secs(60 * 60);

/// The same at the most: nodes that are added to a cluster within a month. A forgotten token ends.
pub(crate) const JOIN_TOKEN_MOST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// From an API request's head to its answer, its body included (*unauthenticated*: a login has one).
pub(crate) const API_TIME: Duration = Duration::from_secs(30);

/// Objects in a page of a list, unless the client says otherwise, and at the most.
pub(crate) const API_PAGE: usize = 500;
pub(crate) const API_PAGE_MOST: usize = 1000;

/// Bytes of JSON behind which a page ends, however many objects were asked for: objects have half of it at the most.
pub(crate) const API_PAGE_BYTES: usize = 1024 * 1024;

/// A token's description.
pub(crate) const DESCRIPTION_CHARS: usize = 256;

/// How long a token counts that a login gives: a working day.
pub(crate) const LOGIN_TOKEN: Duration = Duration::from_secs(12 * 60 * 60);

/// How long it can be renewed, for users of the directory, whose groups and state are looked at each time it is used.
pub(crate) const LOGIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long the first administrator's token counts: until they have made better ones.
pub(crate) const FIRST_TOKEN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Life of the token that `recover` makes: a day to make other credentials, and no forgotten key to everything.
pub(crate) const RECOVERY_TOKEN: Duration = Duration::from_secs(24 * 60 * 60);

/// An authenticator's time, unless the authentication file says otherwise: a little more than one question to
/// a provider.
pub(crate) const AUTHENTICATION: Duration = Duration::from_secs(12);

/// Bindings that name a cluster, before its own administrators may add no more: one for each of a thousand people, who are
/// better named by their groups. Administrators of everything may go on.
pub(crate) const BINDINGS_PER_CLUSTER: usize = 1000;

/// Users and groups whom bindings that name a cluster name altogether, before its own administrators may add no more. A
/// name has up to 512 bytes: 5 MB.
pub(crate) const SUBJECTS_PER_CLUSTER: usize = 10_000;

/// Bindings, before administrators of some clusters may add no more: half of what the directory takes, so that no number of
/// clusters keeps its administrators from letting somebody in.
pub(crate) const BINDINGS_OF_CLUSTERS: usize = underpass_core::limits::OBJECTS / 2;

/// Agents of one cluster, and those that its join tokens may still register, before its own administrators may make no more: as many agents as a cluster has nodes to run
/// them on for its availability, several times over while tokens are replaced. Administrators of everything may go on.
pub(crate) const AGENTS_PER_CLUSTER: usize = 64;

/// Time for users' connections to say what they have to say, and to close, when a drain is over: a round trip or two. The tunnel
/// is kept as long.
pub(crate) const CUT_TIME: Duration = Duration::from_secs(1);

/// Time for connections to end when the server stops, before the audit log is written without waiting for them.
pub(crate) const END_TIME: Duration = Duration::from_secs(2);

/// Arguments of an operation, each of which is a text in the audit log: a command line that people write.
pub(crate) const OPERATION_ARGUMENTS: usize = 64;

/// Their names and values altogether, as at the agent. The audit log has twice as much for them, since JSON escapes quotes.
pub(crate) const OPERATION_ARGUMENT_BYTES: usize = 8 * 1024;

/// The body of a request for an operation: [`OPERATION_ARGUMENT_BYTES`], which JSON may escape.
pub(crate) const OPERATION_BODY: usize = 64 * 1024;

/// Next keys that one agent registers at once, and then one after each [`NEXT_KEY_PER_AGENT_EVERY`]. Each costs two changes of the
/// directory, and keys that are rotated each few seconds are for tests.
pub(crate) const NEXT_KEYS_PER_AGENT: u32 = 5;

/// See [`NEXT_KEYS_PER_AGENT`].
pub(crate) const NEXT_KEY_PER_AGENT_EVERY: Duration = Duration::from_secs(2);

/// Agents whose pace is remembered.
pub(crate) const ROTATING_AGENTS: usize = 16 * 1024;

/// The same for all agents of one cluster: 10,000 of them rotate one key in two minutes, in 30 days. A captured agent with many keys does
/// not keep the directory busy.
pub(crate) const NEXT_KEYS_PER_CLUSTER: u32 = 30;

/// See [`NEXT_KEYS_PER_CLUSTER`].
pub(crate) const NEXT_KEY_PER_CLUSTER_EVERY: Duration = Duration::from_millis(200);

/// Clusters whose pace is remembered.
pub(crate) const ROTATING_CLUSTERS: usize = 4096;

/// The same for all clusters: a half of the changes that others may make.
pub(crate) const NEXT_KEYS: u32 = 100;

/// See [`NEXT_KEYS`].
pub(crate) const NEXT_KEY_EVERY: Duration = Duration::from_millis(50);

/// The time for an agent to register its next key, from its stream on: it signs twice.
pub(crate) const NEXT_KEY_TIME: Duration = Duration::from_secs(10);

/// A line about an agent's key: two keys and two signatures have 300 bytes.
pub(crate) const NEXT_KEY_LINE: u64 = 2048;

/// The longest wait after a first attempt to write down that a key has taken the place of another one. Doubled by each further one.
pub(crate) const REPLACE_KEY_AGAIN: Duration = Duration::from_secs(1);

/// The longest of these waits.
pub(crate) const REPLACE_KEY_AGAIN_MOST: Duration = Duration::from_secs(30);

/// The time for sessions that have proved the old key to prove the new one, once it counts. Another process of the agent's reads the key
/// from a file or a Secret, and dials. The old key opens no new session meanwhile.
pub(crate) const REPLACED_KEY_GRACE: Duration = Duration::from_secs(10);

/// The time for an agent to rotate its key when it is asked to: it writes to its disk, asks the server, and dials. Within the time for
/// an answer of the API.
pub(crate) const ASK_AGENT_TIME: Duration = Duration::from_secs(15);

/// The time for a node's agent to answer about operations: it writes a record to its disk before it does.
pub(crate) const NODE_TIME: Duration = Duration::from_secs(10);

/// A line of a node's agent: a piece of output of 16 KiB in base64, or a record with its arguments.
pub(crate) const NODE_LINE: usize = 64 * 1024;

/// Records of one list, which ends behind [`API_PAGE_BYTES`] too: a hostile agent's records have [`NODE_LINE`] each.
pub(crate) const OPERATION_LIST: usize = 100;

/// Bytes of output in one answer, and a piece more.
pub(crate) const OUTPUT_PAGE: usize = 256 * 1024;

/// A piece of output, as agents read it from a command ([PROTOCOL](../../docs/PROTOCOL.md#operations)).
pub(crate) const OUTPUT_PIECE: usize = 16 * 1024;

/// Pieces in one answer, once those of one stream are joined: with some 60 bytes of JSON around each, and [`OUTPUT_PAGE`] in base64, an
/// answer stays below [`API_PAGE_BYTES`]. A command that writes a byte to each stream in turn has that many.
pub(crate) const OUTPUT_PIECES: usize = 4096;

/// The longest wait for output, within the time for an answer of the API.
pub(crate) const OUTPUT_WAIT: Duration = Duration::from_secs(15);

/// The time in which output is gathered once there is some: a command that prints a line at a time is asked ten times a second.
pub(crate) const OUTPUT_GATHER: Duration = Duration::from_millis(100);

/// The body of a request for a shell: the kind and the size of a terminal.
pub(crate) const SHELL_BODY: usize = 4096;

/// Shells of one caller at one agent, in a list: each takes a process there.
pub(crate) const SHELL_LIST: usize = 100;

/// How often the agent of a shell is looked for that is away: its shell goes on meanwhile.
pub(crate) const SHELL_AGAIN: Duration = Duration::from_secs(1);

/// How long it is: no policy lets a shell without a viewer live longer by default than 15 min, or an idle one than an hour.
pub(crate) const SHELL_AWAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How often it is looked whether recordings that could not be written can be.
pub(crate) const RECORDING_AGAIN: Duration = Duration::from_secs(5);

/// After how many of these looks recordings are removed that were kept for long enough: once a minute.
pub(crate) const RECORDINGS_PRUNE: u32 = 12;

/// Bytes that the disk has to take before a recording begins: one event, escaped.
pub(crate) const RECORDING_PROBE: usize = 64 * 1024;

/// Bytes of all recordings that are kept free for the next write of one: [`RECORDING_BATCH`] and a line of the agent's, escaped.
pub(crate) const RECORDING_ROOM: u64 = 1024 * 1024;

/// Output that is written at once, and events: an agent sends about so much at once.
pub(crate) const RECORDING_BATCH: usize = 64 * 1024;

/// See [`RECORDING_BATCH`].
pub(crate) const RECORDING_EVENTS: usize = 256;

/// How long the last bytes of a recording wait for the end of a character, and for the disk: a machine that loses power loses no more.
pub(crate) const RECORDING_SETTLE: Duration = Duration::from_secs(1);

/// How long the audit event of a shell's end waits for the end of its recording, which comes with the same message of the agent's.
pub(crate) const RECORDING_END: Duration = Duration::from_secs(60);

/// How long an agent keeps what a shell that has ended has printed, for a recorder that could not write it.
pub(crate) const RECORDING_KEPT: Duration = Duration::from_secs(5 * 60);

/// Recordings in all: some hundred bytes of memory each.
pub(crate) const RECORDINGS: u64 = 100_000;

/// Bytes of recordings that are read for one list, to find out whether they are as they were: a second of a slow disk. Those that were
/// looked at before cost nothing.
pub(crate) const RECORDINGS_HASHED: u64 = 256 * 1024 * 1024;

/// A piece of a recording that is sent to a client.
pub(crate) const RECORDING_PIECE: usize = 64 * 1024;
