//! Every bound of this crate, each with its reason.
//!
//! A bound that a stranger can reach before authentication is marked *unauthenticated*.

use std::time::Duration;

/// An encoded identity, whole. Hundreds of groups with long names (directory paths of 200 bytes)
/// need about 128 KiB; kube-apiserver itself reads no more than 1 MiB of headers.
pub const IDENTITY_BYTES: usize = 256 * 1024;

/// Groups of one identity. Directories give power users one or two thousand.
pub const GROUPS: usize = 4096;

/// Extra keys of one identity.
pub const EXTRA_KEYS: usize = 256;

/// Values of all extra keys of one identity: each costs kube-apiserver one authorization check.
pub const EXTRA_VALUES: usize = 4096;

/// One user name, uid, group or extra value. Kubernetes has no bound of its own; LDAP names reach
/// a few hundred bytes.
pub const NAME_BYTES: usize = 4096;

/// One extra key, before percent-encoding trebles it.
pub const EXTRA_KEY_BYTES: usize = 512;

/// Request or response headers, whole (*unauthenticated*): kube-apiserver's own bound (`DefaultMaxHeaderBytes` of net/http), so
/// that ours is no tighter.
pub const HEADER_BYTES: usize = 1024 * 1024;

/// hyper's connection buffer must hold the whole head, and some bytes behind it.
pub const HTTP1_BUFFER_BYTES: usize = HEADER_BYTES + 64 * 1024;

/// Bytes of a head over HTTP/2, in its frames, that is read before hyper reads it: so many are kept until it has ended
/// (*unauthenticated*). In a larger one, and behind it, no path is percent-encoded; any usual head is smaller. Once one was encoded, hyper's
/// own bound counts ([`HTTP1_BUFFER_BYTES`]): others' requests may be on the same connection, a proxy's.
pub const FOLLOWED_HEAD: usize = 64 * 1024;

/// Its frames: h2 takes 83 of the largest head.
pub const FOLLOWED_HEAD_FRAMES: usize = 83;

/// Bytes by which such a head may be more than twice as large when it is written without its compression's table: some times the
/// table's 4 KiB. A byte can stand for all of them (RFC 7541, section 6.1).
pub const FOLLOWED_HEAD_GROWTH: usize = 16 * 1024;

/// CONNECTs of a connection over HTTP/2 whose heads were read, and that hyper has passed on to nobody (*unauthenticated*): it takes few
/// turns, unless it refuses them. Of more the ends are not followed, so that one that is cut may look complete.
pub const FOLLOWED_CONNECTS: usize = 256;

/// Header lines of one message (*unauthenticated*). hyper's default of 100 refuses
/// `kubectl --as-group` with many groups; the parser reserves 64 bytes for each.
pub const HEADER_COUNT: usize = 1024;

/// Header lines that we add ourselves on the way to the agent (Host, Audit-ID, upgrade, …).
pub const HEADER_COUNT_RESERVE: usize = 16;

/// Cookies of one request or answer that pass to or from a proxied workload. Browsers keep some 50 to 180 of one host.
pub const COOKIES: usize = 50;

/// One `Set-Cookie` of a proxied workload: the most that browsers store (RFC 6265bis, section 5.6), and its attributes.
pub const COOKIE_BYTES: usize = 6 * 1024;

/// The `Cookie` header that a proxied workload gets: web servers' bound on a header line (8 to 16 KiB).
pub const COOKIE_LINE_BYTES: usize = 16 * 1024;

/// The name of an object of the directory. Distinguished names reach 200 bytes.
pub const OBJECT_NAME_BYTES: usize = 512;

/// Labels of one cluster, or of one selector.
pub const LABELS: usize = 64;

/// Bytes of a node's labels, which its agent sends when it joins: some fifty of the usual ones. The directory holds those of 10,000
/// nodes.
pub const NODE_LABELS_BYTES: usize = 4096;

/// One object of the directory, as JSON: a group of ten thousand users.
pub const OBJECT_BYTES: usize = 512 * 1024;

/// Objects of one kind. All are in memory, of some hundred bytes each, and each change looks all of them over.
pub const OBJECTS: usize = 100_000;

/// Generations of tokens that were made with one another: each request looks the ancestors of its token up. A login that
/// is renewed each ten minutes has fewer within [`EXPIRED_TOKEN_KEPT`] and its own life.
pub const TOKEN_GENERATIONS: usize = 256;

/// Tokens of one user of the directory beside those of logins: one for each machine and pipeline of theirs. No user fills the
/// directory alone, and administrators make the users.
pub const TOKENS_PER_USER: usize = 500;

/// Tokens of logins, of all users: half of the tokens that there may be, so that the other half is for those that people keep.
/// Beyond it the authenticator that has most gives the oldest of its greediest identity up.
pub const LOGINS: usize = OBJECTS / 2;

/// Tokens of logins of one identity, those included that have expired and are still shown; the oldest gives its place to
/// the next. Programs that log in for each of their jobs do so some hundred times while jobs last.
pub const LOGINS_PER_IDENTITY: usize = 200;

/// Clusters that the scope of one token names: more are better left to the bindings of its user. Every change of the
/// directory looks all tokens over, and every list shows them.
pub const SCOPE_CLUSTERS: usize = 64;

/// Agents of one cluster: each node of the largest cluster that Kubernetes supports (5,000), and as many keys of agents that have
/// lost theirs.
pub const AGENTS_PER_CLUSTER: usize = 10_000;

/// Join tokens of one cluster, those that are expired or used up among them, which make room first: one for each of some people
/// who add nodes, or one for each of a few dozen nodes. Each has less than 1 KiB.
pub const JOIN_TOKENS_PER_CLUSTER: usize = 64;

/// ServiceAccounts of one cluster with which agents join: one for each role, and some while they are renamed.
pub const JOIN_ACCOUNTS: usize = 16;

/// Networks in which the API server of one cluster may be whose agents register a credential: the few addresses of a control plane,
/// for each family.
pub const REGISTRATION_NETWORKS: usize = 16;

/// How long a token that an agent registers may count: agents ask for an hour, and a cloud may give a day. Longer ones outlast what
/// takes them back at the cluster.
pub const REGISTERED_TOKEN_LIFE: Duration = Duration::from_secs(25 * 60 * 60);

/// A token that an agent registers: a JWT of some 1,500 bytes, and what else a cluster writes into it.
pub const REGISTERED_TOKEN_BYTES: usize = 16 * 1024;

/// The CAs beside it: one, and another one while the first is replaced; some clouds have chains.
pub const REGISTERED_CA_BYTES: usize = 32 * 1024;

/// The URL beside it: a name of 253 bytes, and a path.
pub const REGISTERED_URL_BYTES: usize = 1024;

/// Namespaces beside it, whose ServiceAccounts may be impersonated: as many as a command line names.
pub const REGISTERED_NAMESPACES: usize = 64;

/// How long before its end such a token is used for the last time: longer than a request waits for a connection.
pub const REGISTERED_TOKEN_MARGIN: Duration = Duration::from_secs(30);

/// Agents in the role `cluster` of one ServiceAccount, beyond which those that are not connected make room for a new one: each pod of
/// each rollout has a key of its own.
pub const AGENTS_PER_ACCOUNT: usize = 16;

/// Agents that one join token registers: a DaemonSet of a large cluster. A token that leaks registers no more.
pub const JOIN_TOKEN_USES: u32 = 1000;

/// Keys of an agent that others have taken the place of, and that are remembered with their times, so that their holders hear of that and
/// not of an unknown key: some 100 bytes each.
pub const REPLACED_KEYS: usize = 4;

/// Those before, of which the beginning of a hash is kept: 11 bytes each. With the usual lifetime of keys they are those of eight years.
pub const EARLIER_KEYS: usize = 128;

/// Users in one group of the directory.
pub const GROUP_MEMBERS: usize = 10_000;

/// Subjects, or clusters by name, of one binding: more are better chosen by group and by label.
pub const BINDING_NAMES: usize = 4096;

/// Authenticators that a user or a group of the directory is linked to: more than any installation has.
pub const LINKS: usize = 64;

/// How often the log says that a group of an authenticator counts for nothing, since the directory has one of that name.
pub const GROUP_NEWS: Duration = Duration::from_secs(60 * 60);

/// Authenticators and groups of which the log has said it lately. The names are an identity provider's: beyond it the log
/// says nothing until [`GROUP_NEWS`] is over.
pub const GROUP_NEWS_KEPT: usize = 1024;

/// How often it is written down when tokens were last used (rancher#49017: a write for each request hurts the store).
pub const TOKEN_USE_INTERVAL: Duration = Duration::from_secs(60);

/// A bearer token (*unauthenticated*). OIDC tokens with many groups reach some 16 KiB.
pub const BEARER_BYTES: usize = 64 * 1024;

/// How long a client may take to send a request's head over HTTP/1.1, from its first byte on, and from a connection's begin to
/// the end of its first head (*unauthenticated*).
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection without any request in flight is closed, over HTTP/2 with a GOAWAY (*unauthenticated*), unless configured. Longer
/// than load balancers keep their connections (nginx, AWS and Azure 60 s to 4 min, Google Cloud 600 s, which asks for
/// 620 s) and than client-go (90 s), so that the client closes first. The strangers' budget bounds the cost of
/// idle connections in bytes and places, and they go for newcomers.
pub const FRONT_IDLE_TIMEOUT: Duration = Duration::from_secs(620);

/// The longest idle timeout that can be configured.
pub const FRONT_IDLE_TIMEOUT_MOST: Duration = Duration::from_secs(60 * 60);

/// Log lines at once about errors of one cluster, and as many about its agents: a session begins, comes back and ends, for each of
/// its agents.
pub const CLUSTER_LINES: u32 = 100;

/// One more line after each.
pub const CLUSTER_LINE_EVERY: Duration = Duration::from_secs(1);

/// Clusters whose lines are counted.
pub const CLUSTERS_WITH_LINES: usize = 4096;

/// How long a client may read nothing of an answer that does not last (a watch, a log). kube-apiserver gives a request of the
/// kind as long from its beginning to its end.
pub const ANSWER_STALL: Duration = Duration::from_secs(60);

/// HTTP/2 PING towards clients: under every common idle limit of load balancers.
pub const FRONT_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(25);

/// A client that does not answer a PING for so long is gone: within two minutes, with the time before the PING. The PING stands behind
/// all bytes of answers that the two systems' buffers hold, some 10 MB and more on fast paths, and a client may take a minute to read
/// them.
pub const FRONT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(85);

/// A PROXY protocol header (*unauthenticated*, but from configured networks only). Its addresses take 232 bytes at the most,
/// load balancers' additions some hundred, and the name or the certificate of a client one or two thousand.
pub const PROXY_HEADER_BYTES: usize = 4096;

/// Time for a PROXY protocol header. It is a load balancer's first packet, and its specification wants three seconds at
/// the least for one that was lost.
pub const PROXY_HEADER_TIME: Duration = Duration::from_secs(5);

/// Entries of `X-Forwarded-For` that are read, from the last one on (*unauthenticated*): no client is behind so many proxies,
/// and a header of 1 MiB that names trusted ones only would cost milliseconds.
pub const FORWARDED_HOPS: usize = 32;

/// Concurrent requests on one client's HTTP/2 connection (*unauthenticated*): net/http's default,
/// enough for one controller's watches.
pub const FRONT_STREAMS: u32 = 250;

/// Receive window of one request body on HTTP/2 (*unauthenticated*): kube-apiserver's own.
pub const FRONT_STREAM_WINDOW: u32 = 256 * 1024;

/// Receive window of one client's HTTP/2 connection (*unauthenticated*): 32 stalled uploads can't
/// stop the others; API bodies are at most 3 MiB, so that stalls are short.
pub const FRONT_CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Unsent bytes of one response on HTTP/2, where the client reads slowly: a full client costs [`FRONT_STREAMS`] times this.
pub const FRONT_SEND_BUFFER: usize = 256 * 1024;

/// Bytes that an HTTP/2 connection coalesces into one write (*unauthenticated*): a TLS record, and more than the largest frame
/// that is worth a copy.
pub const FRONT_WRITE_BUFFER: usize = 16 * 1024;

/// How long a connection that was closed here, or the rest of a body over HTTP/2 whose request was answered, is still read while
/// bytes come (*unauthenticated*): many clients send all of a body before they look for an answer. nginx's `lingering_time`.
pub const LINGER_TIME: Duration = Duration::from_secs(30);

/// The same while nothing comes: some round trips, until the client has read the answer and closes the connection, too.
pub const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// Bytes of a body over HTTP/1.1 that its request's handler has left and that have come already, which are read so that the connection
/// may have another request (*unauthenticated*): most bodies of a refused request. Go's servers read as many (`maxPostHandlerReadBytes`).
pub const LEFT_BODY_BYTES: usize = 256 * 1024;

/// Turns of the connection in which they are.
pub const LEFT_BODY_TURNS: usize = 4;

/// Bytes that are read and discarded meanwhile (*unauthenticated*): the rest of a head, or of an upload. They take no memory, and
/// the connection gives its place up as any other. Over HTTP/2 of each body, and of all bodies of a connection whose caller is not
/// known.
pub const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// How long the head of a refusal over HTTP/2 waits for its body, while the body of its request may still come, and for how much of
/// it: a Status. Pages of errors that take longer begin as any other answer.
pub const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// See [`REFUSAL_TIME`].
pub const REFUSAL_BYTES: usize = 16 * 1024;

/// TCP connections at once, of users, of agents on WebSocket and of silent peers: room for ten thousand agents, twice while
/// they come back, and as many connections of users; fewer where the system gives the server fewer files. One that is idle
/// costs some 60 KiB with its TLS and HTTP, 2 GiB in all. Where a new one has no room, strangers give one up if they have more
/// than a third of all, and else the user, or the cluster of agents, with the most. Beyond half of all, one of those has a
/// quarter at the most.
pub const CONNECTIONS: usize = 32_768;

/// Memory of an unauthenticated connection before a byte is read from it (*unauthenticated*): its socket, its task, and the
/// state of TLS and HTTP, measured idle. All that is read from it comes on top.
pub const STRANGER_BASE: usize = 64 * 1024;

/// Memory for each byte that is read from it: buffers grow by doubling, and five hundred heads of 1 MB took 1.7 times as much
/// (`underpass-bench run --scenario flood`).
pub const STRANGER_BYTE: usize = 2;

/// Memory for one line of a decoded head beside its bytes: a place in the header map. On HTTP/2 it may have come in a byte (RFC
/// 7541, section 6.1).
pub const STRANGER_HEADER_LINE: usize = 112;

/// Memory of all unauthenticated connections together (*unauthenticated*), in bytes: ten thousand agents on WebSocket that come
/// back at the same moment, [`STRANGER_BASE`] each; or three hundred heads of [`HEADER_BYTES`]. Half of it is for every source.
/// Beyond that, one source holds a quarter at the most: 2,560 connections that say nothing, a /56 of IPv6 one and a half times
/// as much, and a /48 twice. Authenticated connections do not count.
pub const STRANGERS: usize = 10_240 * STRANGER_BASE;

/// Memory of one of them at the most (*unauthenticated*): the largest head, as it came and decoded, with some room, and
/// everything of bodies that HTTP/2 lets a client send ahead of the answer. Its use falls before authentication only by bodies that
/// are discarded, up to [`LINGER_BYTES`]: a client that only asks for health, a hundred bytes at a time, connects again after tens
/// of thousands of requests.
pub const STRANGER_MOST: usize =
    STRANGER_BASE + STRANGER_BYTE * (2 * HTTP1_BUFFER_BYTES + FRONT_CONNECTION_WINDOW as usize);

/// Bytes that an authenticated connection may send ahead of the server's reads, at no charge: any usual head.
pub const KNOWN_HEAD_FREE: usize = 64 * 1024;

/// Memory of all of them together beyond that, in bytes: a hundred heads of [`HEADER_BYTES`] that do not end, or five hundred
/// bodies whose clusters do not read. Beyond it, the holder with most gives a connection up.
pub const KNOWN_HEADS: usize = 256 * 1024 * 1024;

/// Memory of a request whose answer is not sent, and which no budget counts (*unauthenticated*): a refusal, an answer about health. Tasks of
/// hyper and h2, the answer itself.
pub const UNSENT_ANSWER: usize = 16 * 1024;

/// Pieces of one answer that hyper and h2 have at once. Each costs some hundred bytes beside its content, so that an answer in
/// pieces of one byte would cost much more than [`FRONT_SEND_BUFFER`].
pub const ANSWER_PIECES: usize = 64;

/// Bytes of a piece on HTTP/2, which is one frame (RFC 9113, section 6.5.2): an answer stands still when no piece of it was sent
/// for [`ANSWER_STALL`], and many answers may share a slow link.
pub const HTTP2_ANSWER_PIECE: usize = 16 * 1024;

/// The same on HTTP/1.1, where one answer at a time has the link to itself: 1.1 KB/s are enough.
pub const HTTP1_ANSWER_PIECE: usize = 64 * 1024;

/// TLS with a service, once its agent has connected to it: two round trips through the tunnel, on slow links several hundred
/// milliseconds each, and the service's own time.
pub const SERVICE_TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// From "open a stream to this cluster" to the stream, the wait for a reconnecting agent included.
/// kubectl users wait that long; programs retry on the 503.
pub const STREAM_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// From sending a request to its response head, for requests that are not long-running. Twice
/// kube-apiserver's own limit (60 s), so that its answer comes first; watches, logs, proxied
/// services and upgrades have none: their head may take as long as the workload does.
pub const RESPONSE_HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Requests of one user in flight in one cluster, unless configured: more than kubectl's discovery or a busy controller has
/// (client-go's programs ask some ten to fifty times a second), and a fifth of a cluster's ([`REQUESTS_PER_CLUSTER`]).
pub const REQUESTS_PER_USER_AND_CLUSTER: usize = 128;

/// Requests of one user in flight, in all clusters together, unless configured: their share of four clusters, each of which may
/// hang until [`RESPONSE_HEAD_TIMEOUT`] is over. The last quarter is kept for clusters where the user has few (`share.rs`), so
/// that dozens may hang before another one cannot be reached.
pub const REQUESTS_PER_USER: usize = 4 * REQUESTS_PER_USER_AND_CLUSTER;

/// Requests in flight in one cluster, unless configured: kube-apiserver's defaults (`--max-requests-inflight` and
/// `--max-mutating-requests-inflight`, 400 and 200). More would wait there, where every one of them holds a stream of the
/// tunnel.
pub const REQUESTS_PER_CLUSTER: usize = 600;

/// Watches, logs, shells and forwarded ports of one user, in all clusters together, unless configured: the informers
/// of some dozens of controllers. One cluster has three quarters of them at the most (`share.rs`). Each costs server and agent some 100 KiB while it is quiet.
pub const STREAMS_PER_USER: usize = 2000;

/// The same of all users in one cluster, unless configured. With the requests it fits one session of an agent (4,096 streams),
/// and less than the agent's connections to its API server do ([`UPSTREAM_STREAMS`] times [`UPSTREAM_CONNECTIONS`]).
pub const STREAMS_PER_CLUSTER: usize = 3400;

/// Requests of one user that wait for a place, in all clusters together: as many as may be in flight, and as two full
/// HTTP/2 connections bring. One that waits costs its head, some 10 KiB and at the most [`HEADER_BYTES`].
pub const QUEUE_PER_USER: usize = 512;

/// How long a request waits for a place: as in kube-apiserver's own queues (a quarter of a request's 60 s).
pub const QUEUE_WAIT: Duration = Duration::from_secs(15);

/// The longest `Retry-After`: places may come back at any moment, and client-go tries ten times.
pub const RETRY_LATEST: Duration = Duration::from_secs(30);

/// One HTTP/1.1 connection may take so long to finish its shutdown after the last byte was read.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// When a front drains, its watches end at random moments within this time: clients that all came back at
/// once would be a storm for the next replica.
pub const DRAIN_SPREAD: Duration = Duration::from_secs(5);

/// Copy buffer of an upgraded stream, one for each direction: half of TLS's write batch, and
/// small enough for thousands of idle shells.
pub const PIPE_BUFFER_BYTES: usize = 32 * 1024;

/// TCP connect and TLS handshake with the API server, together.
pub const API_SERVER_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One readiness check against the API server.
pub const API_SERVER_CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// After a 401 the API server is asked whether it is our credential that it refuses; its word counts for so long. An
/// aggregated API that answers 401 to everybody must not double the requests to kube-apiserver.
pub const CREDENTIAL_ANSWER_AGE: Duration = Duration::from_secs(5);

/// The body of a readiness check's answer (`/version` is some 400 bytes).
pub const VERSION_BYTES: usize = 64 * 1024;

/// Streams that we put on one HTTP/2 connection to the API server, even if it allows more: kube-apiserver's default, and the
/// loss of one connection should not end every watch.
pub const UPSTREAM_STREAMS: usize = 100;

/// HTTP/2 connections to the API server: 12,800 watches.
pub const UPSTREAM_CONNECTIONS: usize = 128;

/// Idle HTTP/1.1 connections kept to an API server that offers no HTTP/2.
pub const UPSTREAM_IDLE_HTTP1: usize = 32;

/// Receive window of one response: a slow reader costs the agent no more.
pub const UPSTREAM_STREAM_WINDOW: u32 = 256 * 1024;

/// Receive window of one connection to the API server. More than all streams' windows together,
/// so that slow readers never stall the others (konnectivity#881).
pub const UPSTREAM_CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;

/// HTTP/2 PING towards the API server while requests are in flight.
pub const UPSTREAM_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// An API server that does not answer a PING for so long is gone.
pub const UPSTREAM_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// An idle connection to the API server is closed: before its own `IdleTimeout` of 90 s, so that
/// we do not race its GOAWAY.
pub const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The same over HTTP/1.1, which has no GOAWAY: a server in front that closes a connection at the moment of a request says nothing about it.
/// The common ones keep idle connections for 60 s or longer.
pub const UPSTREAM_IDLE_HTTP1_TIMEOUT: Duration = Duration::from_secs(45);

/// Streams of one HTTP/2 connection that were cancelled and are remembered for a second, since frames of theirs are on the way: as
/// many as all users who share the connection may end in it. A stream is some hundred bytes.
pub const UPSTREAM_RESET_STREAMS: usize = 4096;

/// Frames of streams that are not remembered any more, in the life of one HTTP/2 connection: beyond it the API server speaks no HTTP/2, and
/// the connection, with all watches on it, ends. Each costs one frame in answer.
pub const UPSTREAM_STRAY_FRAMES: usize = 1 << 20;

/// Bytes of a request's body that the agent's half keeps until the answer begins: where the API server provably did not process it
/// (GOAWAY, REFUSED_STREAM), it is sent again with them. kube-apiserver sends GOAWAY by chance (`--goaway-chance`), and objects are
/// mostly smaller; etcd takes 1.5 MiB.
pub const REPLAY_BYTES: usize = 64 * 1024;

/// The same of all requests to one API server: 256 of the largest ones at once. A request that finds no room is sent all the same.
pub const REPLAY_BYTES_IN_ALL: usize = 16 * 1024 * 1024;

/// Attempts to send one request, where each earlier one was provably not processed.
pub const UPSTREAM_ATTEMPTS: usize = 4;

/// A token file is read again when the last read is older. The kubelet replaces a ServiceAccount
/// token at 80% of its life (>= 2 minutes before it expires), so that seconds are plenty.
pub const TOKEN_FILE_AGE: Duration = Duration::from_secs(10);

/// After a 401 or a certificate that is not trusted, files of the configuration are looked at again no earlier than so long after the last
/// look: a credential that stays bad must not cost a look for each request.
pub const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// A token file larger than this is not a token.
pub const TOKEN_FILE_BYTES: u64 = 64 * 1024;

/// A kubeconfig of the agent's. One with hundreds of clusters and their CAs is smaller.
pub const KUBECONFIG_BYTES: u64 = 4 * 1024 * 1024;

/// Certificates or a key for the API server, larger than this, are none: all public CAs take a quarter of it.
pub const PEM_FILE_BYTES: u64 = 1024 * 1024;

/// A request waits so long for files of the API server's configuration to be read again, and goes on with what was read last: a
/// file system of the network may hang.
pub const FILE_TIME: Duration = Duration::from_secs(5);

/// A reading that hangs for so long is given up, and another one begins: the path may lead elsewhere by then.
pub const FILE_GIVEN_UP: Duration = Duration::from_secs(30);

/// Readings of the same files that hang at once, each in a thread of its own, which a file system keeps.
pub const STUCK_READINGS: usize = 3;

/// A pipe in the place of a file that is read once is given up where no program has opened it for writing for so long.
pub const PIPE_WRITER_TIME: Duration = Duration::from_secs(5);

/// And where a program writes into it: it may ask a person for the password of a vault.
pub const PIPE_TIME: Duration = Duration::from_secs(60);

/// A name and password (*unauthenticated*): base64 of a name of 256 characters and a long passphrase.
pub const BASIC_BYTES: usize = 4 * 1024;

/// A new password has so many characters (NIST SP 800-63B, section 3.1.1.2, asks for 15 where it is all there is, 8 otherwise).
pub const PASSWORD_CHARS: usize = 12;

/// A password, as a login brings it (*unauthenticated*).
pub const PASSWORD_BYTES: usize = 1024;

/// Passwords that are checked at the same time (*unauthenticated*), each with 19 MiB and some 30 ms of a core.
pub const PASSWORDS_AT_ONCE: usize = 2;

/// Logins that are checked or are going to be (*unauthenticated*): a second's worth. Beyond it, 429. One network has three
/// quarters of them at the most (`share.rs`).
pub const PASSWORDS_WAITING: usize = 64;

/// Beside them, for users who have logged in from the same network before: guesses from everywhere, and
/// those of a neighbour, leave them a place.
pub const PASSWORDS_WAITING_KNOWN: usize = 16;

/// Wrong passwords of one user from one network before a wait (*unauthenticated*): more than a user mistypes.
pub const PASSWORD_TRIES: u32 = 5;

/// The longest wait after one of them.
pub const PASSWORD_WAIT: Duration = Duration::from_secs(15 * 60);

/// Wrong passwords of one user from anywhere before a wait (*unauthenticated*).
pub const PASSWORD_TRIES_ANYWHERE: u32 = 50;

/// The longest wait after one of them: fourteen hundred guesses a day.
pub const PASSWORD_WAIT_ANYWHERE: Duration = Duration::from_secs(60);

/// Users, and users and networks, whose wrong passwords are remembered (*unauthenticated*), of some 150 bytes each: two
/// for each password that is checked. It is more than are checked in [`PASSWORD_WAIT`], [`PASSWORDS_AT_ONCE`] at a time and
/// 30 ms each, so that guesses of ever new names from everywhere do not make it forget a name before its wait is over.
pub const PASSWORD_LOCKOUTS: usize = 131_072;

/// Users whose networks are remembered, of some hundred bytes each; only right passwords write it.
pub const PASSWORD_USERS: usize = 8192;

/// Networks that one user has logged in from: home, work, a phone, and some more.
pub const PASSWORD_NETWORKS: usize = 8;

/// How long a token that has expired is still shown, before the directory forgets it.
pub const EXPIRED_TOKEN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Identities that each authenticator remembers, of a few KiB each.
pub const CACHED_IDENTITIES: usize = 4096;

/// Bad credentials that each authenticator remembers (*unauthenticated*), of some hundred bytes each.
pub const CACHED_REJECTIONS: usize = 4096;

/// Questions that one authenticator asks its provider at the same time (*unauthenticated*). Providers answer in
/// tens of milliseconds: a thousand new users in a second.
pub const CHECKS_AT_ONCE: usize = 32;

/// Credentials that one authenticator is checking or is going to (*unauthenticated*): beyond it, 429. One network has three
/// quarters of them at the most (`share.rs`).
pub const CHECKS_WAITING: usize = 256;

/// Beside them, for credentials that were good before, and for users who have logged in from the same network before.
pub const CHECKS_WAITING_KNOWN: usize = 64;

/// Questions for these that are asked at the same time, beside the others: a provider that is slow to answer strangers
/// answers them.
pub const CHECKS_KNOWN_AT_ONCE: usize = 8;

/// Bad credentials, or wrong passwords of any names, that one client may present in a row (*unauthenticated*): more than a tool
/// with an old password tries until its user looks, and little for a dictionary.
pub const FAILURES: u32 = 50;

/// After so long one of them is forgiven.
pub const FAILURE_FORGIVEN: Duration = Duration::from_secs(2);

/// The networks of IPv6 that a client is counted in, each with how many subscribers' shares it has (*unauthenticated*): a
/// subscriber has a /64 at the least, a household or a small office a /56, a site a /48 (RFC 6177). So a /48 has 16 shares, and
/// not 65,536; a site of which so many subscribers are wrong at once is rare.
pub const NETWORK_BLOCKS: [(u32, u32); 3] = [(64, 1), (56, 4), (48, 16)];

/// Clients whose bad credentials each authenticator counts (*unauthenticated*), of some hundred bytes each.
pub const FAILING_CLIENTS: usize = 8192;

/// TCP connect with an identity provider.
pub const PROVIDER_CONNECT_TIME: Duration = Duration::from_secs(5);

/// One question to an identity provider, from connect to the answer's last byte.
pub const PROVIDER_TIME: Duration = Duration::from_secs(10);

/// An identity provider's answer: a page of a hundred teams is some 200 KiB.
pub const PROVIDER_ANSWER_BYTES: usize = 1024 * 1024;

/// Keys of one token issuer. Providers publish two to four.
pub const ISSUER_KEYS: usize = 64;

/// An issuer's keys are fetched again when they are older, while the old ones serve: a revoked key counts so long.
pub const ISSUER_KEYS_AGE: Duration = Duration::from_secs(300);

/// An issuer that cannot be reached keeps its keys so long: past it they may have been revoked.
pub const ISSUER_KEYS_STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// An issuer is not asked for its keys more often (*unauthenticated*: any client can name a key that does not exist).
pub const ISSUER_KEYS_PAUSE: Duration = Duration::from_secs(2);

/// Certificates between a client's and its root (*unauthenticated*): each is parsed for every request.
pub const CLIENT_INTERMEDIATES: usize = 8;

/// Wrong passwords of one entry that reach its directory before a wait, from wherever they come (*unauthenticated*). Active
/// Directory locks an account after five (CIS) or ten (Microsoft's baseline) in a row, from all clients together.
pub const LDAP_WRONG_BINDS: u32 = 4;

/// Of these, how many from networks where its user has not logged in before: the last one is theirs.
pub const LDAP_WRONG_BINDS_OF_STRANGERS: u32 = LDAP_WRONG_BINDS - 1;

/// How long after the last of them a directory still counts them. Active Directory's `Reset account lockout counter after`
/// is ten to thirty minutes where it is set.
pub const LDAP_WRONG_BINDS_TIME: Duration = Duration::from_secs(30 * 60);

/// Users of a directory whose logins and networks are remembered, of some hundred bytes each.
pub const LDAP_USERS: usize = 65_536;

/// Other entries whose wrong passwords are remembered (*unauthenticated*), of some 200 bytes each with the networks that
/// have brought them. Where there are more, names that have not logged in yet have to wait: to forget one would be to let it
/// be locked. One network has three quarters of them at the most (`share.rs`).
pub const LDAP_OTHERS: usize = 65_536;

/// Those whose time is over are not looked for more often.
pub const LDAP_SWEEP: Duration = Duration::from_secs(1);

/// Connections to a directory that are kept for the next search.
pub const LDAP_IDLE: usize = 8;

/// A connection that has been idle for so long is closed: firewalls and load balancers forget one after four minutes (Azure), 350 s
/// (AWS) or an hour, many without a word, and Active Directory closes it after fifteen minutes.
pub const LDAP_IDLE_TIME: Duration = Duration::from_secs(120);

/// A search on a kept connection that takes longer is asked on a new one beside it: the kept one may be dead without a word. A
/// directory that is only slow still answers on the kept one; both are within [`PROVIDER_TIME`].
pub const LDAP_KEPT_ANSWER: Duration = Duration::from_secs(3);

/// One message of a directory: an entry with [`LDAP_VALUES`] distinguished names of 200 bytes each.
pub const LDAP_MESSAGE_BYTES: usize = 1024 * 1024;

/// Bytes of all answers of a directory to the searches of one login: 4 KiB for each of [`GROUPS`], which is a group with two dozen
/// groups that it is in. All that a login remembers of its directory is less.
pub const LDAP_LOGIN_BYTES: usize = GROUPS * 4096;

/// Attributes in them, and values: an empty value takes two bytes of an answer, and some fifty of memory.
pub const LDAP_LOGIN_VALUES: usize = GROUPS * 32;

/// Entries in one page of a search: Active Directory gives no more than 1,000.
pub const LDAP_PAGE: usize = 500;

/// Groups that one search looks for, or for the groups of: some 20 KiB of filter.
pub const LDAP_TERMS: usize = 100;

/// Groups that a user or a group names (`memberOf`) and that are read at the same time, for one login. More of them are searched for,
/// [`LDAP_TERMS`] at once.
pub const LDAP_READS: usize = 4;

/// Values of one attribute that a directory gives in parts, as Active Directory does beyond 1,500: no user is in more groups.
pub const LDAP_VALUES: usize = GROUPS;

/// Groups that do not count and were named in the log, of some 200 bytes each.
pub const GROUPS_LEFT_OUT: usize = 256;

/// How deep groups in groups are followed.
pub const LDAP_LEVELS: usize = 16;

/// Pages of a hundred that are read of a user's organizations, and of their teams.
pub const GITHUB_PAGES: usize = 10;

/// An unconfirmed device login is given up after this time, even if its server allows more. GitHub says fifteen minutes.
pub const DEVICE_LOGIN: Duration = Duration::from_secs(1800);

/// A server is not asked more often whether a device login is confirmed. GitHub says five seconds.
pub const DEVICE_INTERVAL: Duration = Duration::from_secs(1);

/// Characters of a cluster's answer to a review, and of a directory's result, that the log keeps.
pub const PEER_MESSAGE_CHARS: usize = 512;

/// SubjectAccessReviews of one `--as` that are asked at the same time: 300 groups are 38 round trips to the cluster, and
/// no API server counts so few as a flood.
pub const ACCESS_REVIEWS_AT_ONCE: usize = 8;

/// The decision about an impersonation, from the first review to the last.
pub const IMPERSONATION_TIME: Duration = Duration::from_secs(20);

/// Reviews of impersonations in one cluster at once: beyond it, 429. A cluster that hangs costs so many, and takes nothing from
/// the others. One caller has three quarters of them at the most (`share.rs`).
pub const IMPERSONATION_WAITING: usize = 64;

/// How long a cluster's yes counts for new requests: as long as kube-apiserver itself remembers a constrained
/// impersonation. One kubectl command, with its discovery, is one round of reviews.
pub const IMPERSONATION_ALLOWED: Duration = Duration::from_secs(10);

/// How long its no counts: one kubectl command's repetitions, and hardly longer than a user with a new right takes to try
/// again.
pub const IMPERSONATION_REFUSED: Duration = Duration::from_secs(2);

/// While watches, shells and logs rest on a cluster's yes, it is asked again so often: a right that was revoked in the cluster
/// lasts that long, and [`IMPERSONATION_ALLOWED`] more at the most.
pub const IMPERSONATION_AGAIN: Duration = Duration::from_secs(30);

/// Answers that are remembered, yes and no each, of some hundred bytes.
pub const IMPERSONATION_ANSWERS: usize = 4096;

/// Arguments and environment of a credential plugin, together: a few tokens and paths.
pub const EXEC_INPUT_BYTES: usize = 64 * 1024;

/// Output of a credential plugin: a token, a certificate and a key.
pub const EXEC_OUTPUT_BYTES: u64 = 256 * 1024;

/// One run of a credential plugin. Cloud providers' ask their API over the network; requests without a token wait meanwhile.
pub const EXEC_TIME: Duration = Duration::from_secs(20);

/// A credential plugin that has failed, or whose token was refused, is not run again earlier: a broken one must not be
/// started for each request.
pub const EXEC_PAUSE: Duration = Duration::from_secs(5);

/// A plugin's token is replaced so long before it expires, or in the last quarter of its life if that is shorter: time
/// for a run, for a request's way, and for clocks that differ.
pub const EXEC_EARLY: Duration = Duration::from_secs(60);

/// Bytes under way, each way, between the front and the other half in the same process: two copies' worth.
pub const MEMORY_STREAM_BYTES: usize = 64 * 1024;

/// Events of callers without an identity that one network may have written at once (*unauthenticated*): a client
/// with a wrong token tries some ten times before its owner looks.
pub const STRANGER_EVENTS: u32 = 50;

/// One more of a network's is written after each (*unauthenticated*): 8,640 a day, some 5 MB.
pub const STRANGER_EVENT_EVERY: Duration = Duration::from_secs(10);

/// The same for all networks together (*unauthenticated*): bearable for a disk and for a reader of logs, 10 a second.
pub const STRANGERS_EVENTS: u32 = 1000;
/// One more is written after each (*unauthenticated*).
pub const STRANGERS_EVENT_EVERY: Duration = Duration::from_millis(100);

/// Networks whose share is remembered (*unauthenticated*), some 100 bytes each.
pub const STRANGER_NETWORKS: usize = 10_000;

/// Events of strangers that wait to be written (*unauthenticated*), of some 1 KiB each: see [`STRANGER_TEXT_CHARS`].
pub const STRANGER_QUEUE: usize = 1000;

/// Each text in an event of a stranger is cut to so much (*unauthenticated*), in bytes as JSON writes it: enough to know a
/// scanner by.
pub const STRANGER_TEXT_CHARS: usize = 128;

/// An event of a stranger, whole (*unauthenticated*): some fifteen texts of [`STRANGER_TEXT_CHARS`], and their names.
pub const STRANGER_EVENT_BYTES: usize = 4 * 1024;

/// Log lines of one network at once about credentials, and agents, that are refused (*unauthenticated*): a misconfigured
/// client asks a few times a second, and its operator wants to see it.
pub const REFUSAL_LINES: u32 = 100;

/// One more line after each: 86,400 a day of one network.
pub const REFUSAL_LINE_EVERY: Duration = Duration::from_secs(1);

/// The same for all networks together (*unauthenticated*): bearable for a disk and for a reader of logs. With it networks are
/// forgotten only once they have their whole share back: it lets fewer than [`FAILING_CLIENTS`] take a line meanwhile.
pub const REFUSALS_LINES: u32 = 1000;

/// One more line of them all after each: 10 a second.
pub const REFUSALS_LINE_EVERY: Duration = Duration::from_millis(100);

/// Path, user agent and annotations in an event of a known caller, each in bytes as JSON writes it; kube-apiserver's own
/// audit keeps all of it.
pub const AUDIT_TEXT_CHARS: usize = 2048;

/// Names in an event: users, and objects of calls. Kubernetes' have 253 characters, and distinguished names reach 200 bytes.
pub const AUDIT_NAME_BYTES: usize = 512;

/// Groups and extra of one user in an event, together: two thousand groups of 30 bytes, or three hundred distinguished
/// names. The rest is left out, and the event says so.
pub const AUDIT_USER_BYTES: usize = 64 * 1024;

/// The same where nothing came of the call: a provider, or `--as`, may give [`IDENTITY_BYTES`] of them with each.
pub const AUDIT_REFUSED_USER_BYTES: usize = 4 * 1024;

/// An event, whole: two users, and some fifteen texts of [`AUDIT_TEXT_CHARS`].
pub const AUDIT_EVENT_BYTES: usize = 2 * AUDIT_USER_BYTES + 32 * 1024;

/// The same where nothing came of the call.
pub const AUDIT_REFUSED_EVENT_BYTES: usize = 2 * AUDIT_REFUSED_USER_BYTES + 32 * 1024;

/// Refused calls of one user that are written one by one at once: kubectl's discovery is refused a hundred times where
/// a user may nothing.
pub const REFUSED_EVENTS: u32 = 200;

/// One more is written after each: 8,640 a day. So no user can rotate the history away with calls that they may not
/// make; the next event says how many were left out.
pub const REFUSED_EVENT_EVERY: Duration = Duration::from_secs(10);

/// Users whose share is remembered, some 300 bytes each.
pub const REFUSED_USERS: usize = 10_000;

/// The same of all users whom one authenticator vouches for: a captured one gives ever new names.
pub const AUTHORITY_REFUSED_EVENTS: u32 = 750;
/// One more is written after each: five a second.
pub const AUTHORITY_REFUSED_EVENT_EVERY: Duration = Duration::from_millis(200);
/// Authenticators whose share is remembered: more than any installation has.
pub const REFUSED_AUTHORITIES: usize = 256;

/// The same of all users: as of all strangers, bearable for a disk and for a reader of logs.
pub const ALL_REFUSED_EVENTS: u32 = 1000;
/// One more is written after each: ten a second.
pub const ALL_REFUSED_EVENT_EVERY: Duration = Duration::from_millis(100);

/// Bytes of events that may wait in one backend: ten thousand of ordinary size. A caller with thousands of groups makes
/// events of [`AUDIT_USER_BYTES`].
pub const AUDIT_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Characters of a peer's text (a provider's, an agent's, an API server's, a webhook's) that an error quotes: enough to know what
/// it is, and no room for a megabyte in each line of a log.
pub const QUOTED_CHARS: usize = 200;
