//! The addresses at which an API server may be, where somebody else than our operator has named it.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use underpass_dial::{Resolve, SystemResolver};

/// Decides where connections to an API server may go.
pub trait Places: fmt::Debug + Send + Sync + 'static {
    /// May it be at this address?
    fn may_be_at(&self, address: IpAddr) -> bool;
}

/// Finds those addresses of a name at which the API server may be. It decides at each connection, about the very address of it: a
/// name that had another address when it was looked at leads nowhere else.
#[derive(Debug)]
pub(super) struct Placed<R = SystemResolver> {
    places: Arc<dyn Places>,
    resolver: R,
}

impl Placed {
    pub(super) fn new(places: Arc<dyn Places>) -> Self {
        Self {
            places,
            resolver: SystemResolver,
        }
    }
}

impl<R: Resolve> Resolve for Placed<R> {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let mut found = self.resolver.resolve(host, port).await?;
            let any = !found.is_empty();
            found.retain(|address| self.places.may_be_at(address.ip()));
            if any && found.is_empty() {
                let why = "the server may not connect to the API server's address";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use underpass_dial::testing::Addresses;

    use super::*;

    #[derive(Debug)]
    struct Private;

    impl Places for Private {
        fn may_be_at(&self, address: IpAddr) -> bool {
            matches!(address, IpAddr::V4(v4) if v4.is_private())
        }
    }

    #[tokio::test]
    async fn rule_2_a_name_leads_to_allowed_addresses_alone() {
        let resolve = async |addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let placed = Placed {
                places: Arc::new(Private),
                resolver: Addresses(addresses),
            };
            placed.resolve("name", 443).await
        };
        let found = resolve(&["10.0.0.1:443", "169.254.169.254:443"]).await;
        assert_eq!(found.unwrap(), ["10.0.0.1:443".parse().unwrap()]);
        let found = resolve(&["169.254.169.254:443"]).await;
        assert_eq!(found.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(resolve(&[]).await.unwrap(), []);
    }
}
