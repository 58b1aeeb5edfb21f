//! A way to a member that can lose what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Gate {
    pub(crate) url: String,
    lossy: Arc<AtomicBool>,
    /// Its changes end the connections.
    cuts: watch::Sender<u32>,
}

impl Gate {
    pub(crate) async fn before(url: &str) -> Self {
        let member = url.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let lossy = Arc::<AtomicBool>::default();
        let (cuts, cut) = watch::channel(0);
        let loses = Arc::clone(&lossy);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (member, loses, mut cut) = (member.clone(), Arc::clone(&loses), cut.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = carry(client, &member, &loses) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { url, lossy, cuts }
    }

    /// From now on nothing comes back, and everything still goes there.
    pub(crate) fn lose_answers(&self, lossy: bool) {
        self.lossy.store(lossy, Ordering::SeqCst);
    }

    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn carry(client: TcpStream, member: &str, loses: &AtomicBool) -> std::io::Result<()> {
    let member = TcpStream::connect(member).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_member, mut to_member) = member.into_split();
    let there = tokio::io::copy(&mut from_client, &mut to_member);
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from_member.read(&mut buffer).await?;
            if length == 0 {
                return std::io::Result::Ok(());
            }
            if !loses.load(Ordering::SeqCst) {
                to_client.write_all(&buffer[..length]).await?;
            }
        }
    };
    tokio::select! {
        done = there => done.map(drop),
        done = back => done,
    }
}
