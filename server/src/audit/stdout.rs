//! Events on standard output.

use std::io::Write;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::spawn_blocking;
use underpass_audit::Sink;
use underpass_core::BoxError;

pub(super) struct Stdout;

#[async_trait]
impl Sink for Stdout {
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
        let lines = super::file::lines(events);
        let written = spawn_blocking(move || {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&lines)?;
            stdout.flush()
        });
        Ok(written.await??)
    }
}
