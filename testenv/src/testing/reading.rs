//! Reading as far as is needed.

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{DEADLINE, text};

/// A stream that is read up to what is looked for, and not further.
#[derive(Debug)]
pub struct Reading<R> {
    from: R,
    unread: String,
}

impl<R: AsyncRead + Unpin> Reading<R> {
    /// Reads from there.
    pub const fn new(from: R) -> Self {
        Self {
            from,
            unread: String::new(),
        }
    }

    /// Reads up to the text.
    pub async fn until(&mut self, wanted: &str) -> String {
        self.until_some(wanted, |unread| {
            let end = unread.find(wanted)? + wanted.len();
            Some((unread[..end].to_owned(), end))
        })
        .await
    }

    /// Reads until something is found, which is returned with where it ends.
    pub async fn until_some<T>(
        &mut self,
        wanted: &str,
        find: impl Fn(&str) -> Option<(T, usize)>,
    ) -> T {
        let read = async {
            let mut buffer = [0; 4096];
            loop {
                if let Some((found, end)) = find(&self.unread) {
                    self.unread.drain(..end);
                    return found;
                }
                let n = self.from.read(&mut buffer).await.unwrap();
                assert_ne!(n, 0, "ended without {wanted:?}: {:?}", self.unread);
                self.unread.push_str(&text(&buffer[..n]));
            }
        };
        match tokio::time::timeout(DEADLINE, read).await {
            Ok(found) => found,
            Err(_) => panic!("no {wanted:?} in {:?}", self.unread),
        }
    }

    /// Everything up to the end.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.from.read_to_end(&mut bytes);
        match tokio::time::timeout(DEADLINE, read).await {
            Ok(read) => read.unwrap(),
            Err(_) => panic!("no end after {:?}", self.unread),
        };
        std::mem::take(&mut self.unread) + &text(&bytes)
    }
}
