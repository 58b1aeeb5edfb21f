//! `underpass node`

mod again;

use std::collections::BTreeMap;
use std::io;

use anyhow::{Result, bail};
use underpass_api::client::Match;
use underpass_api::{
    Client, NodeList, NodeView, OperationId, OperationList, OperationRecord, OperationRequest,
    OperationState, OutputPage, OutputStream, ProgramExit, segment,
};
use underpass_core::ClusterName;
use underpass_terminal::{relay_to_stderr, relay_to_stdout, say, show};

use self::again::Again;
use super::{list, print_table, timestamp};
use crate::args::{Argument, Node, NodeOperations, NodeRun};
use crate::status::{CommandStatus, SIGNALLED};

/// Seconds that the server waits for output.
const WAIT: u64 = 15;

/// As timeout(1) has it.
const TIMED_OUT: u8 = 124;

pub(super) async fn run(client: &Client, command: Node) -> Result<()> {
    match command {
        Node::List { cluster } => {
            let nodes: NodeList = client.get(&format!("/v1/clusters/{cluster}/nodes")).await?;
            let rows = nodes.items.into_iter().map(node_row);
            let rows = rows.collect::<Result<Vec<_>>>()?;
            let header = ["NAME", "AGENT", "SINCE", "LABELS", "TRANSPORT", "SOFTWARE"];
            print_table(&header, &rows);
            Ok(())
        }
        Node::Run(options) => start(client, options).await,
        Node::Operations(options) => operations(client, options).await,
        Node::Cancel { cluster, node, id } => {
            let path = format!("{}/{id}", path(&cluster, &node));
            client.delete(&path, Match::Anything).await?;
            say!(
                "Operation {id} is being killed: `underpass node operations` shows when it has ended."
            );
            Ok(())
        }
    }
}

fn node_row(node: NodeView) -> Result<Vec<String>> {
    let labels = node.labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    Ok(vec![
        node.name,
        node.agent,
        timestamp(node.since.truncate_to_second())?,
        list(&labels),
        node.transport,
        node.software,
    ])
}

fn path(cluster: &ClusterName, node: &str) -> String {
    format!("/v1/clusters/{cluster}/nodes/{}/operations", segment(node))
}

async fn start(client: &Client, options: NodeRun) -> Result<()> {
    let path = path(&options.cluster, &options.node);
    let id = match options.id {
        Some(id) => id,
        None => random_id()?,
    };
    let request = OperationRequest {
        id: id.clone(),
        operation: options.operation,
        arguments: collect(options.arguments)?,
        detach: true,
    };
    // The id makes it one run, however often it is asked for. It is said first: the answer may be lost.
    say!("Operation {id} on node {}", options.node);
    let mut again = Again::for_start(&id);
    let record: OperationRecord = loop {
        match client.post(&path, &request).await {
            Ok(record) => break record,
            Err(error) => again.wait(error).await?,
        }
    };
    if options.detach {
        show(&record.id);
        return Ok(());
    }
    follow(client, &path, &id).await
}

fn random_id() -> Result<OperationId> {
    let number: u128 = rand::random();
    Ok(format!("{number:032x}").parse()?)
}

fn collect(arguments: Vec<Argument>) -> Result<BTreeMap<String, String>> {
    let mut collected = BTreeMap::new();
    for Argument { name, value } in arguments {
        if collected.insert(name.clone(), value).is_some() {
            bail!("the parameter {name} has two values");
        }
    }
    Ok(collected)
}

async fn operations(client: &Client, options: NodeOperations) -> Result<()> {
    let path = path(&options.cluster, &options.node);
    let Some(id) = options.id else {
        let list: OperationList = client.get(&path).await?;
        let rows = list.items.iter().map(row).collect::<Result<Vec<_>>>()?;
        let header = [
            "ID",
            "OPERATION",
            "USER",
            "STATE",
            "EXIT",
            "CREATED",
            "ENDED",
        ];
        print_table(&header, &rows);
        return Ok(());
    };
    if options.output {
        return follow(client, &path, &id).await;
    }
    let record: OperationRecord = client.get(&format!("{path}/{id}")).await?;
    for line in about(&record)? {
        show(line);
    }
    Ok(())
}

fn row(record: &OperationRecord) -> Result<Vec<String>> {
    let exit = record.exit.map(|exit| exit.to_string());
    let ended = record.ended.map(timestamp).transpose()?;
    let none = || "-".to_owned();
    Ok(vec![
        record.id.to_string(),
        record.operation.clone(),
        record.user.clone(),
        record.state.to_string(),
        exit.unwrap_or_else(none),
        timestamp(record.created)?,
        ended.unwrap_or_else(none),
    ])
}

fn about(record: &OperationRecord) -> Result<Vec<String>> {
    let mut lines = vec![
        format!("id:        {}", record.id),
        format!("operation: {}", record.operation),
    ];
    for (name, value) in &record.arguments {
        lines.push(format!("argument:  {name}={value}"));
    }
    lines.push(format!("user:      {}", record.user));
    lines.push(format!("created:   {}", timestamp(record.created)?));
    for (name, moment) in [("started:  ", record.started), ("ended:    ", record.ended)] {
        if let Some(moment) = moment {
            lines.push(format!("{name} {}", timestamp(moment)?));
        }
    }
    lines.push(format!("state:     {}", record.state));
    if let Some(exit) = record.exit {
        lines.push(format!("exit:      {exit}"));
    }
    if let Some(reason) = &record.reason {
        lines.push(format!("reason:    {reason}"));
    }
    let output = record.output;
    lines.push(format!(
        "output:    {} bytes kept, {} beyond its limit, {} lost",
        output.kept, output.dropped, output.lost
    ));
    Ok(lines)
}

/// Shows the output of a run until it ends, however often the server or the node is away meanwhile.
async fn follow(client: &Client, path: &str, id: &OperationId) -> Result<()> {
    let mut from = 0;
    let mut again = Again::for_output(id);
    let record = loop {
        let part = format!("{path}/{id}/output?from={from}&wait={WAIT}");
        match client.get::<OutputPage>(&part).await {
            Ok(page) => {
                again = Again::for_output(id);
                write(&page)?;
                from = page.next;
                if page.is_last {
                    break page.record;
                }
            }
            Err(error) => again.wait(error).await?,
        }
    };
    let output = record.output;
    if output.dropped > 0 {
        say!(
            "underpass: {} bytes of output are beyond the operation's limit, and not kept",
            output.dropped
        );
    }
    if output.lost > 0 {
        say!(
            "underpass: {} bytes of output are lost: the node's disk had no room for them",
            output.lost
        );
    }
    match status(&record) {
        0 => Ok(()),
        status => {
            say!("underpass: {}", end(&record));
            Err(CommandStatus(status).into())
        }
    }
}

fn end(record: &OperationRecord) -> String {
    let mut end = format!("operation {} {}", record.id, record.state);
    if let Some(exit) = record.exit {
        end.push_str(&format!(", {exit}"));
    }
    if let Some(reason) = &record.reason {
        end.push_str(&format!(": {reason}"));
    }
    end
}

/// The exit status for a run that has ended.
fn status(record: &OperationRecord) -> u8 {
    match (record.state, record.exit) {
        (OperationState::Succeeded, _) => 0,
        (OperationState::TimedOut, _) => TIMED_OUT,
        (_, Some(ProgramExit::Signal(signal))) => {
            SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or_default())
        }
        // A command that was interrupted or cancelled did not succeed, with any exit status.
        (_, Some(ProgramExit::Status(status))) => match u8::try_from(status) {
            Ok(0) | Err(_) => 1,
            Ok(status) => status,
        },
        (_, None) => 1,
    }
}

/// Pieces go where the command wrote them.
fn write(page: &OutputPage) -> io::Result<()> {
    for piece in &page.pieces {
        let written = match piece.stream {
            OutputStream::Stdout => relay_to_stdout(&piece.data),
            OutputStream::Stderr => relay_to_stderr(&piece.data),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_commands() {
        let record = |state: &str, exit: &str| -> OperationRecord {
            let text = format!(
                r#"{{"id":"1","operation":"a","user":"u","created":"2026-01-01T00:00:00Z","state":"{state}","exit":{exit}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        for (state, exit, expected) in [
            ("succeeded", r#"{"status":0}"#, 0),
            ("failed", r#"{"status":3}"#, 3),
            ("failed", r#"{"signal":9}"#, 137),
            ("failed", "null", 1),
            ("timed-out", r#"{"signal":15}"#, 124),
            ("cancelled", r#"{"status":0}"#, 1),
            ("interrupted", "null", 1),
        ] {
            assert_eq!(status(&record(state, exit)), expected, "{state} {exit}");
        }
    }

    #[test]
    fn a_parameter_has_one_value() {
        let argument = |text: &str| text.parse::<Argument>().unwrap();
        let collected = collect(vec![argument("a=1=2"), argument("b=")]).unwrap();
        assert_eq!(collected["a"], "1=2");
        assert!(collect(vec![argument("a=1"), argument("a=2")]).is_err());
        assert!("a".parse::<Argument>().is_err());
    }
}
