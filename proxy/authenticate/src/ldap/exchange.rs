//! Requests and answers on one connection, one after the other.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    ber::{Malformed, message_length},
    budget::{Budget, TooMuch},
    message::{self, Answer, Outcome, Request, Search},
    search::{Found, NoEntry},
};
use underpass_core::limits;

/// Bytes that are read at once.
const READ: usize = 8 * 1024;

/// A connection. Nothing is read from it but the answer to a question, and nothing of that beyond its [`Budget`].
///
/// # Cancel safety
/// After a question that was dropped, or that failed, the connection is of no more use.
pub(super) struct Exchange<S> {
    stream: S,
    received: BytesMut,
    /// The id of the last request.
    last: u32,
}

/// Why there is no answer of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("the connection failed")]
    Connection(#[from] io::Error),
    #[error("the directory closed the connection")]
    Closed,
    #[error("the directory ended the connection ({0})")]
    Notice(Outcome),
    #[error("the directory has sent something unasked")]
    Unasked,
    #[error("there was no connection within {:?}", limits::PROVIDER_CONNECT_TIME)]
    Unconnected,
    #[error("the directory said nothing for {:?}", limits::PROVIDER_TIME)]
    TooSlow,
    #[error("the directory sent something that is no LDAP message")]
    Malformed(#[from] Malformed),
    #[error(
        "the directory sent a message of {0} bytes, and more than {most} are not read",
        most = limits::LDAP_MESSAGE_BYTES
    )]
    TooLong(usize),
    #[error("an answer of the directory is too large")]
    TooMuch(#[from] TooMuch),
    #[error("the directory gave an answer of another kind than it was asked for")]
    OtherAnswer,
    #[error("the directory refuses it ({0})")]
    Refused(Outcome),
}

impl ExchangeError {
    /// Whether the connection has ended, so that another one may give the answer.
    pub(super) fn has_ended(&self) -> bool {
        matches!(
            self,
            Self::Connection(_) | Self::Closed | Self::Notice(_) | Self::Unasked | Self::TooSlow
        )
    }
}

/// The entries that a search found.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) found: Vec<Found>,
    pub(super) end: End,
    /// Whether all of the answer was read, so that the connection may have the next question.
    pub(super) all_read: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All that was asked for is here.
    Complete,
    NoSuchObject,
    Referral,
}

const REFERRAL: u32 = 10;
const NO_SUCH_OBJECT: u32 = 32;

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
            last: 0,
        }
    }

    /// Asks for TLS. Gives the stream on which it has to begin.
    pub(super) async fn start_tls(mut self) -> Result<S, ExchangeError> {
        let id = self.request(message::start_tls).await?;
        match self.answer(id, &Budget::new(), extended).await? {
            // Before TLS, anybody on the path can have written them.
            _ if !self.received.is_empty() => Err(ExchangeError::Unasked),
            outcome if outcome.code == 0 => Ok(self.stream),
            outcome => Err(ExchangeError::Refused(outcome)),
        }
    }

    /// Binds as an entry. Gives the directory's result.
    pub(super) async fn bind(
        &mut self,
        dn: &str,
        password: &str,
    ) -> Result<Outcome, ExchangeError> {
        let id = self.request(|id| message::bind(id, dn, password)).await?;
        self.answer(id, &Budget::new(), bound).await
    }

    /// Ends the connection.
    pub(super) async fn unbind(mut self) -> Result<(), ExchangeError> {
        self.request(message::unbind).await?;
        Ok(self.stream.shutdown().await?)
    }

    /// At most `most` entries that a search finds, in pages: Active Directory gives no more than a thousand at once. References are
    /// left out: they lead to servers that are not configured.
    pub(super) async fn search(
        &mut self,
        search: &Search<'_>,
        most: usize,
        budget: &Budget,
    ) -> Result<Entries, ExchangeError> {
        let (mut found, mut cookie) = (Vec::new(), Vec::new());
        loop {
            let id = self
                .request(|id| message::search(id, search, &cookie))
                .await?;
            let done = loop {
                let message = self.receive(budget).await?;
                match addressed(id, &message)? {
                    Answer::Entry(_) if found.len() >= most => {
                        // The directory has more than it was asked for, and reading it would take time.
                        let (end, all_read) = (End::Complete, false);
                        return Ok(Entries {
                            found,
                            end,
                            all_read,
                        });
                    }
                    Answer::Entry(entry) => found.push(Found::read(entry, budget)?),
                    Answer::Reference | Answer::Intermediate => {}
                    Answer::Done(done) => break done,
                    Answer::Bind(_) | Answer::Extended(_) => {
                        return Err(ExchangeError::OtherAnswer);
                    }
                }
            };
            let end = match done.outcome.code {
                // The result of a search that has what it needs does not matter.
                _ if found.len() >= most => End::Complete,
                NO_SUCH_OBJECT => End::NoSuchObject,
                REFERRAL => End::Referral,
                0 if done.cookie.is_empty() => End::Complete,
                0 => {
                    cookie = done.cookie;
                    continue;
                }
                _ => return Err(ExchangeError::Refused(done.outcome)),
            };
            let all_read = true;
            return Ok(Entries {
                found,
                end,
                all_read,
            });
        }
    }

    /// Waits until the directory closes the connection, or sends something unasked: an idle connection ends then. Reads one byte
    /// at the most.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(super) async fn idle(&mut self) -> ExchangeError {
        if !self.received.is_empty() {
            return ExchangeError::Unasked;
        }
        match self.stream.read(&mut [0]).await {
            Ok(0) => ExchangeError::Closed,
            Ok(_) => ExchangeError::Unasked,
            Err(error) => error.into(),
        }
    }

    async fn request(
        &mut self,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<u32, ExchangeError> {
        // RFC 4511, section 4.1.1.1: ids have 31 bits, and 0 is for unsolicited notifications.
        self.last = if self.last < i32::MAX.unsigned_abs() {
            self.last + 1
        } else {
            1
        };
        let request = request(self.last);
        self.stream.write_all(&request).await?;
        self.stream.flush().await?;
        Ok(self.last)
    }

    /// The only message of an answer.
    async fn answer(
        &mut self,
        id: u32,
        budget: &Budget,
        outcome: fn(Answer<'_>) -> Option<Outcome>,
    ) -> Result<Outcome, ExchangeError> {
        loop {
            let message = self.receive(budget).await?;
            match addressed(id, &message)? {
                Answer::Intermediate => {}
                answer => return outcome(answer).ok_or(ExchangeError::OtherAnswer),
            }
        }
    }

    /// The next message, whole.
    async fn receive(&mut self, budget: &Budget) -> Result<Bytes, ExchangeError> {
        let length = loop {
            match message_length(&self.received)? {
                Some(length) => break length,
                None => self.read().await?,
            }
        };
        if length > limits::LDAP_MESSAGE_BYTES {
            return Err(ExchangeError::TooLong(length));
        }
        budget.message(length)?;
        while self.received.len() < length {
            self.read().await?;
        }
        Ok(self.received.split_to(length).freeze())
    }

    async fn read(&mut self) -> Result<(), ExchangeError> {
        self.received.reserve(READ);
        let reading = self.stream.read_buf(&mut self.received);
        match timeout(limits::PROVIDER_TIME, reading).await {
            Err(_) => Err(ExchangeError::TooSlow),
            Ok(Ok(0)) => Err(ExchangeError::Closed),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
        }
    }
}

/// The answer to the request of this id, the only one that there is.
fn addressed(id: u32, message: &[u8]) -> Result<Answer<'_>, ExchangeError> {
    match message::read(message)? {
        // RFC 4511, section 4.4.1: the Notice of Disconnection.
        (0, Answer::Extended(notice)) => Err(ExchangeError::Notice(notice)),
        (answered, answer) if answered == id => Ok(answer),
        _ => Err(ExchangeError::Unasked),
    }
}

fn bound(answer: Answer<'_>) -> Option<Outcome> {
    match answer {
        Answer::Bind(outcome) => Some(outcome),
        _ => None,
    }
}

fn extended(answer: Answer<'_>) -> Option<Outcome> {
    match answer {
        Answer::Extended(outcome) => Some(outcome),
        _ => None,
    }
}

impl From<NoEntry> for ExchangeError {
    fn from(error: NoEntry) -> Self {
        match error {
            NoEntry::Malformed(why) => Self::Malformed(why),
            NoEntry::TooMuch(why) => Self::TooMuch(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{DuplexStream, duplex},
        time::Instant,
    };

    use super::*;
    use crate::ldap::{
        ber::{ENUMERATED, INTEGER, OCTETS, Reader, SEQUENCE, SET, element, number},
        message::{Filter, Scope},
    };

    const BIND_RESPONSE: u8 = 0x61;
    const ENTRY: u8 = 0x64;
    const DONE: u8 = 0x65;
    const EXTENDED_RESPONSE: u8 = 0x78;
    const INTERMEDIATE: u8 = 0x79;

    fn message(id: u32, tag: u8, content: &[u8], more: &[u8]) -> Vec<u8> {
        let parts = element(tag, &[content]);
        element(SEQUENCE, &[&number(INTEGER, id), &parts, more]).to_vec()
    }

    fn result(code: u32) -> Vec<u8> {
        let octets = element(OCTETS, &[]);
        [&number(ENUMERATED, code)[..], &octets, &octets].concat()
    }

    fn entry(id: u32, name: &str) -> Vec<u8> {
        let value = element(SET, &[&element(OCTETS, &[name.as_bytes()])]);
        let attribute = element(SEQUENCE, &[&element(OCTETS, &[b"cn"]), &value]);
        let dn = element(OCTETS, &[format!("cn={name}").as_bytes()]);
        let attributes = element(SEQUENCE, &[&attribute]);
        message(id, ENTRY, &[&dn[..], &attributes].concat(), &[])
    }

    /// The end of a page, and where the next one is.
    fn page(id: u32, cookie: &str) -> Vec<u8> {
        let cookie = element(OCTETS, &[cookie.as_bytes()]);
        let paged = element(SEQUENCE, &[&number(INTEGER, 0), &cookie]);
        let oid = element(OCTETS, &[b"1.2.840.113556.1.4.319"]);
        let control = element(SEQUENCE, &[&oid, &element(OCTETS, &[&paged])]);
        message(id, DONE, &result(0), &element(0xa0, &[&control]))
    }

    fn pair() -> (Exchange<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(1024);
        (Exchange::new(near), far)
    }

    /// Reads a request, and gives these answers to it.
    async fn answer(far: &mut DuplexStream, answers: &[Vec<u8>]) -> Vec<u8> {
        let mut request = vec![0; 1024];
        let read = far.read(&mut request).await.unwrap();
        request.truncate(read);
        far.write_all(&answers.concat()).await.unwrap();
        request
    }

    async fn search(
        exchange: &mut Exchange<DuplexStream>,
        most: usize,
    ) -> Result<Entries, ExchangeError> {
        let search = Search {
            base: "dc=x",
            scope: Scope::Subtree,
            filter: Filter::parse("(cn=*)").unwrap(),
            attributes: &["cn"],
            page: 2,
        };
        exchange.search(&search, most, &Budget::new()).await
    }

    fn names(entries: &Entries) -> Vec<String> {
        let names = entries.found.iter().map(|found| found.name("cn").unwrap());
        names.collect()
    }

    #[tokio::test]
    async fn a_search_goes_from_page_to_page() {
        let (mut exchange, mut far) = pair();
        let serve = async {
            let first = [entry(1, "a"), entry(1, "b"), page(1, "next")];
            let request = answer(&mut far, &first).await;
            assert!(!request.windows(4).any(|part| part == b"next"));
            let request = answer(&mut far, &[entry(2, "c"), page(2, "")]).await;
            assert!(request.windows(4).any(|part| part == b"next"));
            // A search that has what it needs does not go on.
            let more = [entry(3, "a"), entry(3, "b"), page(3, "more")];
            answer(&mut far, &more).await;
            // A directory that knows no pages gives more than it was asked for.
            let more = [entry(4, "a"), entry(4, "b"), entry(4, "c")];
            answer(&mut far, &more).await;
        };
        let ask = async {
            let all = search(&mut exchange, 10).await.unwrap();
            assert_eq!(names(&all), ["a", "b", "c"]);
            assert_eq!((all.end, all.all_read), (End::Complete, true));
            let some = search(&mut exchange, 2).await.unwrap();
            assert_eq!((names(&some).len(), some.all_read), (2, true));
            let some = search(&mut exchange, 2).await.unwrap();
            assert_eq!((names(&some).len(), some.all_read), (2, false));
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn a_result_is_the_end_of_a_search() {
        let (mut exchange, mut far) = pair();
        let serve = async {
            for (id, code) in [(1, 32), (2, 10), (3, 4)] {
                answer(&mut far, &[message(id, DONE, &result(code), &[])]).await;
            }
        };
        let ask = async {
            assert_eq!(
                search(&mut exchange, 1).await.unwrap().end,
                End::NoSuchObject
            );
            assert_eq!(search(&mut exchange, 1).await.unwrap().end, End::Referral);
            let error = search(&mut exchange, 1).await.unwrap_err();
            let ExchangeError::Refused(outcome) = &error else {
                panic!("{error}");
            };
            assert_eq!(outcome.code, 4);
            assert!(!error.has_ended());
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn only_the_answer_to_the_question_counts() {
        type Is = fn(&ExchangeError) -> bool;
        let cases: [(Vec<u8>, Is); 6] = [
            (message(2, BIND_RESPONSE, &result(0), &[]), |e| {
                matches!(e, ExchangeError::Unasked)
            }),
            (message(0, BIND_RESPONSE, &result(0), &[]), |e| {
                matches!(e, ExchangeError::Unasked)
            }),
            (
                message(0, EXTENDED_RESPONSE, &result(52), &[]),
                |e| matches!(e, ExchangeError::Notice(notice) if notice.code == 52),
            ),
            (message(1, EXTENDED_RESPONSE, &result(0), &[]), |e| {
                matches!(e, ExchangeError::OtherAnswer)
            }),
            (message(1, DONE, &result(0), &[]), |e| {
                matches!(e, ExchangeError::OtherAnswer)
            }),
            (entry(1, "a"), |e| matches!(e, ExchangeError::OtherAnswer)),
        ];
        for (bytes, is) in cases {
            let (mut exchange, mut far) = pair();
            let bytes = [bytes];
            let asking = exchange.bind("cn=a", "b");
            let (_, bound) = tokio::join!(answer(&mut far, &bytes), asking);
            let error = bound.unwrap_err();
            assert!(is(&error), "{error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_may_come_in_pieces_and_has_to_come() {
        let (mut exchange, mut far) = pair();
        let serve = async {
            let request = answer(&mut far, &[]).await;
            let mut request = Reader::new(&request).within(SEQUENCE).unwrap();
            assert_eq!(request.number(INTEGER), Ok(1));
            let news = message(1, INTERMEDIATE, &[], &[]);
            for byte in [news, message(1, BIND_RESPONSE, &result(49), &[])].concat() {
                far.write_all(&[byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let (bound, ()) = tokio::join!(exchange.bind("cn=a", "b"), serve);
        assert_eq!(bound.unwrap().code, 49);
        let begin = Instant::now();
        let error = exchange.bind("cn=a", "b").await.unwrap_err();
        assert!(matches!(error, ExchangeError::TooSlow) && error.has_ended());
        assert_eq!(begin.elapsed(), limits::PROVIDER_TIME);
    }

    #[tokio::test]
    async fn rule_23_bytes_behind_an_answer_end_a_connection() {
        let (mut exchange, mut far) = pair();
        let bytes = [message(1, DONE, &result(0), &[]), vec![SEQUENCE]];
        let asking = search(&mut exchange, 1);
        let (_, entries) = tokio::join!(answer(&mut far, &bytes), asking);
        assert!(entries.unwrap().all_read);
        assert!(matches!(exchange.idle().await, ExchangeError::Unasked));
    }

    #[tokio::test]
    async fn rule_23_a_message_that_is_too_long_is_not_read() {
        for length in [limits::LDAP_MESSAGE_BYTES, u32::MAX as usize] {
            let (mut exchange, mut far) = pair();
            let header = [&[SEQUENCE, 0x88][..], &(length as u64).to_be_bytes()].concat();
            let bytes = [header];
            let asking = exchange.bind("cn=a", "b");
            let (_, bound) = tokio::join!(answer(&mut far, &bytes), asking);
            let error = bound.unwrap_err();
            let whole = length + 10;
            assert!(
                matches!(error, ExchangeError::TooLong(n) if n == whole),
                "{error}"
            );
            assert!(exchange.received.capacity() < 3 * READ);
        }
    }
}
