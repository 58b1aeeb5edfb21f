//! The proxy in front of an API server: a kubeconfig's `proxy-url`.
//!
//! The environment's `HTTPS_PROXY` is none: it is an agent's way to the Underpass server, and the API server is on this side of it.

use underpass_http_proxy::{Proxy, ProxyDialer};

use super::{ApiServerError, tls};

/// The way through the configuration's proxy. It has no exceptions: neither has it for client-go.
pub(super) fn of(config: &kube::Config) -> Result<Option<ProxyDialer>, ApiServerError> {
    let Some(url) = &config.proxy_url else {
        return Ok(None);
    };
    let url = url.to_string().parse();
    let mut proxy = Proxy::new(url.map_err(ApiServerError::ProxyUrl)?);
    // Go has one TLS configuration for the server and a proxy that is spoken to over TLS.
    let authorities = config.root_cert.as_ref();
    proxy.ca_pem = authorities.map(|all| {
        all.iter()
            .map(|der| tls::pem(der))
            .collect::<String>()
            .into()
    });
    let dialer = ProxyDialer::new(proxy).map_err(ApiServerError::Proxy)?;
    Ok(Some(dialer))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls_pki_types::PrivateKeyDer;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;
    use underpass_http_proxy::testing::{CREDENTIALS, HttpProxy, Manner};

    use super::*;
    use crate::{
        ProxyError, ProxyUrlError,
        endpoint::{ConnectError, Endpoint, Offer},
        testing::{Made, make, told},
    };

    fn server(made: &Made) -> rustls::ServerConfig {
        let key = PrivateKeyDer::try_from(made.key.serialize_der()).unwrap();
        let chain = vec![made.certificate.der().clone()];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap()
    }

    /// The configuration for a server that is somewhere behind a proxy.
    fn config(proxy: &str, port: u16, trusted: &[&Made]) -> kube::Config {
        let mut config = kube::Config::new(format!("https://api.invalid:{port}").parse().unwrap());
        config.proxy_url = Some(proxy.parse().unwrap());
        config.tls_server_name = Some("127.0.0.1".to_owned());
        let authorities = trusted.iter().map(|made| made.certificate.der().to_vec());
        config.root_cert = Some(authorities.collect());
        config
    }

    fn endpoint(config: &kube::Config) -> Result<Endpoint, ApiServerError> {
        Endpoint::new(config, crate::tls::trusting(config).unwrap(), None)
    }

    #[tokio::test]
    async fn connections_go_through_the_proxy_with_tls_to_the_api_server() {
        let api = make();
        let front = make();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(server(&api)));
        for tls in [None, Some(server(&front))] {
            let proxy = HttpProxy::with(Manner::Carry, tls).await.unwrap();
            let config = config(&proxy.url(CREDENTIALS), port, &[&api, &front]);
            let endpoint = endpoint(&config).unwrap();
            let answering = async {
                let tcp = listener.accept().await.unwrap().0;
                let mut stream = acceptor.accept(tcp).await.unwrap();
                stream.write_all(b"hello").await.unwrap();
                stream.shutdown().await.unwrap();
                stream
            };
            let (connected, _stream) = tokio::join!(endpoint.connect(Offer::Http1), answering);
            let mut greeting = [0; 5];
            let mut io = connected.unwrap().io;
            io.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"hello");
            // The proxy resolves the name.
            assert_eq!(proxy.asked(), [format!("api.invalid:{port}")]);
        }
    }

    /// As `ssh -D` is one. The Kubernetes documentation recommends it for API servers behind a bastion.
    #[tokio::test]
    async fn connections_go_through_a_socks_proxy() {
        let api = make();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("socks5://{}", listener.local_addr().unwrap());
        let endpoint = endpoint(&config(&proxy, 6443, &[&api])).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server(&api)));
        let proxying = async {
            let mut tcp = listener.accept().await.unwrap().0;
            let mut greeting = [0; 3];
            tcp.read_exact(&mut greeting).await.unwrap();
            tcp.write_all(&[5, 0]).await.unwrap();
            let mut request = [0; 18];
            tcp.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"\x05\x01\x00\x03\x0bapi.invalid\x19\x2b");
            tcp.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
                .await
                .unwrap();
            acceptor.accept(tcp).await.unwrap()
        };
        let (connected, _stream) = tokio::join!(endpoint.connect(Offer::Both), proxying);
        connected.unwrap();
    }

    #[tokio::test]
    async fn rule_10_a_proxy_cannot_stand_for_the_api_server() {
        let (api, other) = (make(), make());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(server(&other)));
        let proxy = HttpProxy::start().await.unwrap();
        let endpoint = endpoint(&config(&proxy.url(CREDENTIALS), port, &[&api])).unwrap();
        let posing = async {
            let tcp = listener.accept().await.unwrap().0;
            acceptor.accept(tcp).await.map(drop)
        };
        let (connected, _) = tokio::join!(endpoint.connect(Offer::Both), posing);
        assert!(matches!(connected.err().unwrap(), ConnectError::Tls(_)));
    }

    #[tokio::test]
    async fn a_proxy_that_gives_no_way_says_why() {
        let api = make();
        let refusing = HttpProxy::start().await.unwrap();
        let config = config(&refusing.url("alice:wrong"), 6443, &[&api]);
        let refused = endpoint(&config).unwrap().connect(Offer::Both).await;
        let error = refused.err().unwrap();
        assert!(
            matches!(
                error,
                ConnectError::Proxy(ProxyError::Credentials { given: true, .. })
            ),
            "{error:?}"
        );
        assert!(!told(&error).contains("wrong"));
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let config = self::config(&format!("http://{closed}"), 6443, &[&api]);
        let refused = endpoint(&config).unwrap().connect(Offer::Both).await;
        let error = refused.err().unwrap();
        assert!(matches!(error, ConnectError::ProxyTcp { .. }), "{error:?}");
    }

    #[test]
    fn rule_11_an_unusable_proxy_url_is_not_shown() {
        let api = make();
        for (url, fault) in [
            ("ftp://u:hunter2@p", ProxyUrlError::Scheme),
            ("http://u:hunter2@p/path", ProxyUrlError::Path),
        ] {
            let error = endpoint(&config(url, 6443, &[&api])).unwrap_err();
            assert!(!told(&error).contains("hunter2"));
            assert!(matches!(error, ApiServerError::ProxyUrl(found) if found == fault));
        }
    }
}
