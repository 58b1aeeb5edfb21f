//! `underpass forward`

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::task::JoinSet;
use underpass_core::Target;
use underpass_forward::{Event, Events, Listen, Listener, State, Tunnel};
use underpass_terminal::say;

use crate::args::{Forward, Which};
use crate::signals::Signals;

pub(crate) async fn run(which: &Which, options: Forward) -> Result<()> {
    let Forward {
        cluster,
        rules,
        socks5,
        node,
        verbose,
    } = options;
    if rules.is_empty() && socks5.is_none() {
        bail!("name what to forward, as in 8080:web.shop:80, or give --socks5 PORT");
    }
    let server = which.server_to_forward().await?;
    let url = server.to_string();
    let states = move |state| tell_state(&url, &state);
    let tunnel = Tunnel::new(server, &cluster, states);
    let (tunnel, place) = match &node {
        Some(node) => (
            tunnel.at_node(node),
            format!("at node {node} of cluster {cluster}"),
        ),
        None => (tunnel, format!("in cluster {cluster}")),
    };
    let events: Events = Arc::new(move |event| tell(&event, verbose));
    // By itself one would leave the sockets.
    let mut signals = Signals::listen()?;
    // All or nothing: a port that is taken is noticed before anything is said to be there.
    let mut bound = Vec::new();
    for rule in &rules {
        let listener = Listener::bind(rule, tunnel.clone(), Arc::clone(&events)).await?;
        bound.push((shown(&rule.target), listener));
    }
    if let Some(address) = socks5 {
        let listener = Listener::bind_proxy(address, tunnel.clone(), Arc::clone(&events)).await?;
        let whatever = "any host, by SOCKS5 or HTTP CONNECT,".to_owned();
        bound.push((whatever, listener));
    }
    let mut running = JoinSet::new();
    for (target, listener) in bound {
        let near = listener.place().context("the system tells no address")?;
        say!("{near} leads to {target} {place}");
        warn_of_others(&near);
        running.spawn(listener.run());
    }
    let ended = tokio::select! {
        _ = signals.next() => Ok(()),
        ended = running.join_next() => match ended {
            Some(Err(error)) => Err(error).context("a listener ended"),
            _ => Err(anyhow!("a listener ended")),
        },
    };
    running.shutdown().await;
    ended
}

/// A listener asks for no credential: everybody on the network connects as this user.
fn warn_of_others(near: &Listen) {
    if !near.is_local() {
        say!(
            "underpass: whoever reaches {near} over the network connects as you, without a password; leave the address out to listen \
             for this machine only"
        );
    }
}

fn shown(target: &Target) -> String {
    let text = target.to_string();
    text.strip_prefix("tcp:").unwrap_or(&text).to_owned()
}

fn tell_state(server: &str, state: &State) {
    match state {
        State::Connected => say!("Connected to {server} again."),
        State::Lost => say!("underpass: the connection to {server} is lost, connecting again"),
        State::Away(error) => {
            let error = anyhow::Error::from(Arc::clone(error));
            say!("underpass: {error:#}; trying again");
        }
        _ => {}
    }
}

fn tell(event: &Event, verbose: bool) {
    match event {
        Event::Refused {
            client,
            target,
            error,
        } => {
            let error = anyhow::Error::from(error.clone());
            say!("underpass: {client} to {}: {error:#}", shown(target));
        }
        Event::Opened { client, target } if verbose => {
            say!("{client} to {}: connected", shown(target));
        }
        Event::Closed {
            client,
            target,
            sent,
            received,
            lasted,
            complete,
        } if verbose => {
            let ended = match complete {
                true => "ended",
                false => "cut",
            };
            let lasted = humantime::format_duration(whole_milliseconds(*lasted));
            say!(
                "{client} to {}: {ended} after {lasted}, {sent} bytes there and {received} back",
                shown(target)
            );
        }
        _ => {}
    }
}

fn whole_milliseconds(time: Duration) -> Duration {
    Duration::new(time.as_secs(), time.subsec_millis() * 1_000_000)
}
