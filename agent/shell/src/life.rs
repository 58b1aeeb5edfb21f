//! The life of a shell, from its program's start to the end of its last process.

use std::sync::Arc;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::limits;
use crate::processes::Processes;
use crate::pty::Master;
use crate::record::{Cause, End};
use crate::shell::{Shell, Shown};
use crate::start::Process;

/// Sees a shell to its end.
pub(crate) async fn attend(shell: &Arc<Shell>, process: Process, master: &Master) -> End {
    let (over, is_over) = watch::channel(false);
    let ending = async {
        let end = end(shell, process).await;
        over.send_replace(true);
        end
    };
    let (end, ()) = tokio::join!(ending, read(shell, master, is_over));
    end
}

/// Reads the output, for as long as there is some, and never more than viewers have room for.
async fn read(shell: &Arc<Shell>, master: &Master, mut is_over: watch::Receiver<bool>) {
    let mut buffer = vec![0; limits::PIECE_BYTES];
    loop {
        let room = tokio::select! {
            room = room(shell) => room.min(limits::PIECE_BYTES),
            () = given_up(shell, &mut is_over) => return,
        };
        let Some(piece) = buffer.get_mut(..room) else {
            return;
        };
        let read = tokio::select! {
            read = master.read(piece) => read,
            () = rest(&mut is_over) => return,
        };
        let read = match read {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(id = %shell.id, "the terminal of a shell fails: {error}");
                return;
            }
        };
        shell.push(piece.get(..read).unwrap_or_default());
        tokio::select! {
            () = show(shell) => {}
            () = given_up(shell, &mut is_over) => return,
        }
    }
}

/// Waits until there is room for output. Viewers that keep the program waiting for too long are dismissed.
async fn room(shell: &Shell) -> usize {
    loop {
        let (room, patience) = {
            let audience = shell.audience();
            (audience.room(), audience.patience())
        };
        if room > 0 {
            return room;
        }
        tokio::select! {
            () = shell.took.notified() => {}
            () = until(patience) => {
                shell.audience().dismiss(Instant::now());
                tracing::info!(id = %shell.id, "a viewer or the recorder of a shell takes nothing, and is detached");
                shell.left.notify_one();
                shell.heard.notify_waiters();
            }
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of the program, and a little longer.
async fn rest(is_over: &mut watch::Receiver<bool>) {
    over(is_over).await;
    sleep(limits::REST_TIME).await;
}

/// Waits for the end of the program.
async fn over(is_over: &mut watch::Receiver<bool>) {
    if is_over.wait_for(|over| *over).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for the end of a shell that waits for no viewer, and for no screen, or whose recorder stays away.
async fn given_up(shell: &Shell, is_over: &mut watch::Receiver<bool>) {
    over(is_over).await;
    tokio::select! {
        () = shell.hurry.cancelled() => {}
        () = recorder_given_up(shell) => {}
    }
}

/// Waits until a shell has waited for its recorder for as long as it may.
async fn recorder_given_up(shell: &Shell) {
    loop {
        let deadline = shell.audience().recording_deadline();
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return;
        }
        sleep(limits::RECORDER_LOOK).await;
    }
}

/// Keeps the model of the screen up to date, on a thread of its own: there is output whose screen takes long to make.
async fn show(shell: &Arc<Shell>) {
    loop {
        let showing = Arc::clone(shell);
        let shown = tokio::task::spawn_blocking(move || showing.show()).await;
        let Ok(Shown { is_all, took }) = shown else {
            return;
        };
        if took > limits::SCREEN_TIME {
            sleep(took.saturating_mul(limits::SCREEN_PAUSE)).await;
        }
        if is_all {
            return;
        }
    }
}

/// Waits until the program ends or has to, and ends all of its processes.
async fn end(shell: &Shell, mut process: Process) -> End {
    let cause = tokio::select! {
        () = process.ended() => Cause::Program,
        cause = shell.end_asked() => cause,
        cause = expired(shell) => cause,
    };
    // Others wait for its end by any cause.
    shell.ask_end(cause);
    hang_up(shell, &process.all).await;
    End {
        exit: process.finish().await,
        cause,
    }
}

/// Waits until it has been without input and output, or without viewers, for as long as its rule allows.
async fn expired(shell: &Shell) -> Cause {
    loop {
        let (active, detached, recorded, is_recorded) = {
            let audience = shell.audience();
            let recorded = audience.recording_deadline();
            let is_recorded = audience.recording().is_some_and(|how| how.required);
            (
                audience.active(),
                audience.detached(),
                recorded,
                is_recorded,
            )
        };
        let now = Instant::now();
        if recorded.is_some_and(|recorded| recorded <= now) {
            return Cause::Unrecorded;
        }
        let idle = active + shell.rule.idle_limit();
        let detached = detached.map(|since| since + shell.rule.detached_lifetime());
        if detached.is_some_and(|detached| detached <= now) {
            return Cause::Detached;
        }
        if idle <= now {
            return Cause::Idle;
        }
        let next = detached.map_or(idle, |detached| detached.min(idle));
        // It may begin to wait for its recorder at any time.
        let look = is_recorded.then(|| now + limits::RECORDER_LOOK);
        tokio::select! {
            () = sleep_until(look.map_or(next, |look| look.min(next))) => {}
            () = shell.left.notified() => {}
        }
    }
}

/// Ends every process of a shell: SIGHUP, which tells a shell to end its jobs, and SIGKILL for those that are left.
async fn hang_up(shell: &Shell, all: &Processes) {
    let mut deadline = Instant::now() + limits::HANGUP_GRACE;
    let mut was_revoked = false;
    let mut left = signal(all, Some(Signal::HUP)).await;
    // A process that is stopped takes no signal but this one and SIGKILL.
    if left > 0 {
        signal(all, Some(Signal::CONT)).await;
    }
    while left > 0 && Instant::now() < deadline {
        if shell.revoked.is_cancelled() && !was_revoked {
            was_revoked = true;
            deadline = deadline.min(Instant::now() + limits::REVOKED_GRACE);
        }
        sleep(limits::HANGUP_AGAIN).await;
        left = signal(all, None).await;
    }
    if left == 0 {
        return;
    }
    let killing = all.clone();
    // Its failure has the search below find more.
    let _ = tokio::task::spawn_blocking(move || killing.kill_at_once()).await;
    for _ in 0..limits::SEARCHES {
        if signal(all, Some(Signal::KILL)).await == 0 {
            return;
        }
        sleep(limits::SEARCH_AGAIN).await;
    }
    tracing::error!(id = %shell.id, "processes of a shell that has ended do not end");
}

/// Sends a signal, or none, to every process of a shell, and gives their number.
async fn signal(all: &Processes, signal: Option<Signal>) -> usize {
    let all = all.clone();
    let sending = tokio::task::spawn_blocking(move || match signal {
        Some(signal) => all.signal(signal),
        None => all.count(),
    });
    match sending.await {
        Ok(Ok(number)) => number,
        Ok(Err(error)) => {
            tracing::error!("processes of a shell cannot be searched for: {error}");
            0
        }
        Err(_gone) => 0,
    }
}
