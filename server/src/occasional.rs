//! Events that strangers can cause as often as they like.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::limits;

/// An event that is logged once in a while.
#[derive(Debug, Default)]
pub(crate) struct Occasional(Mutex<Option<Instant>>);

impl Occasional {
    /// Whether it was not said within [`limits::SAME_NEWS`].
    pub(crate) fn is_news(&self) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = said.is_none_or(|said| said.elapsed() >= limits::SAME_NEWS);
        if news {
            *said = Some(Instant::now());
        }
        news
    }
}
