//! Reading everything as of one revision, page by page.

use prost::Message as _;
use tonic::Code;
use underpass_directory::{Contents, Record, Write};

use crate::client::Patience;
use crate::error::{CallError, EtcdError};
use crate::keys::{damaged, read_record};
use crate::large::Part;
use crate::limits;
use crate::state::State;
use crate::store::EtcdStore;
use crate::wire::{KeyValue, RANGE, RangeRequest, RangeResponse, end_of};

/// A page that cannot be had.
enum PageError {
    /// The revision was compacted, or the page is larger than an answer may be.
    Anew,
    Etcd(EtcdError),
}

impl EtcdStore {
    /// Reads everything as of one revision. Where that is compacted meanwhile, it begins anew.
    pub(crate) async fn read_all(&self) -> Result<Contents, EtcdError> {
        let mut most = limits::PAGE_MOST;
        for _ in 0..limits::READINGS {
            let head = self.head(Patience::for_call()).await?;
            match self.read_at(&head.state, head.revision, most).await {
                Ok(contents) => {
                    self.learn(&head.state);
                    return Ok(contents);
                }
                // Which of the two it was, etcd's code does not say.
                Err(PageError::Anew) => most = (most / 4).max(1),
                Err(PageError::Etcd(error)) => return Err(error),
            }
        }
        Err(EtcdError::Unsteady)
    }

    async fn read_at(
        &self,
        state: &State,
        revision: i64,
        most: i64,
    ) -> Result<Contents, PageError> {
        let mut contents = Contents {
            revision: state.revision(),
            ..Contents::default()
        };
        let mut pages = Pages::new(&self.keys.objects, revision, most);
        while let Some(request) = pages.next() {
            for pair in pages.turn(self.page(request).await?) {
                let key = self.keys.read_object(&pair.key)?;
                let record = read_record(&pair.key, &pair.value)?;
                contents.records.insert(key, record);
            }
        }
        for write in self.read_parts(state, revision, most).await? {
            match write.value {
                Some(value) => {
                    let revision = state.revision();
                    let record = Record { revision, value };
                    contents.records.insert(write.key, record);
                }
                None => drop(contents.records.remove(&write.key)),
            }
        }
        Ok(contents)
    }

    /// The writes of the last change that are not among the objects yet.
    async fn read_parts(
        &self,
        state: &State,
        revision: i64,
        most: i64,
    ) -> Result<Vec<Write>, PageError> {
        let mut writes = Vec::new();
        if state.parts == 0 {
            return Ok(writes);
        }
        let prefix = self.keys.parts_of(&state.commit);
        let mut found = 0_usize;
        let mut pages = Pages::new(&prefix, revision, most.min(limits::PAGE));
        while let Some(request) = pages.next() {
            for pair in pages.turn(self.page(request).await?) {
                let part = Part::decode(&*pair.value).map_err(|_| damaged(&pair.key))?;
                writes.extend(part.into_writes().ok_or_else(|| damaged(&pair.key))?);
                found = found.saturating_add(1);
            }
        }
        match found == state.parts {
            true => Ok(writes),
            false => Err(damaged(&prefix).into()),
        }
    }

    /// The writes of the last change, as they are now.
    pub(crate) async fn parts(&self, state: &State) -> Result<Option<Vec<Write>>, EtcdError> {
        match self.read_parts(state, 0, limits::PAGE).await {
            Ok(writes) => Ok(Some(writes)),
            // Another process has folded them meanwhile, or does.
            Err(PageError::Anew | PageError::Etcd(EtcdError::Damaged { .. })) => Ok(None),
            Err(PageError::Etcd(error)) => Err(error),
        }
    }

    async fn page(&self, request: RangeRequest) -> Result<RangeResponse, PageError> {
        let asking = self.client.ask(RANGE, &request, Patience::for_page());
        asking.await.map_err(|error| match error {
            CallError::Refused(Code::OutOfRange, _) => PageError::Anew,
            error => PageError::Etcd(error.into()),
        })
    }
}

impl From<EtcdError> for PageError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error)
    }
}

/// The pages of all keys with one prefix.
struct Pages {
    from: Option<Vec<u8>>,
    end: Vec<u8>,
    revision: i64,
    limit: i64,
    most: i64,
}

impl Pages {
    fn new(prefix: &[u8], revision: i64, most: i64) -> Self {
        Self {
            from: Some(prefix.to_vec()),
            end: end_of(prefix),
            revision,
            limit: limits::PAGE.min(most),
            most,
        }
    }

    /// The question for the next page; `None` behind the last one.
    fn next(&mut self) -> Option<RangeRequest> {
        Some(RangeRequest {
            key: self.from.take()?,
            range_end: self.end.clone(),
            limit: self.limit,
            revision: self.revision,
            keys_only: false,
        })
    }

    /// Takes a page. The next one is larger, as long as they are small.
    fn turn(&mut self, page: RangeResponse) -> Vec<KeyValue> {
        let bytes: usize = page.kvs.iter().map(|pair| pair.value.len()).sum();
        if let Some(last) = page.kvs.last().filter(|_| page.more) {
            self.from = Some([&*last.key, &[0]].concat());
        }
        self.limit = match bytes < limits::PAGE_BYTES {
            true => self.limit.saturating_mul(2).min(self.most),
            false => (self.limit / 2).max(1),
        };
        page.kvs
    }
}
