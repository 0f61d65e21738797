//! What containers use.

use super::{Request, State, quick, spawn};
use crate::daemon::answer::{self, Answer, Failure};
use crate::engine::stats::{Before, PACE};

/// `GET /containers/{name}/stats`: a frame every second, or one. That one takes a second, too, for
/// the use of processors in it, unless it is to come at once.
pub async fn stats(state: State, request: Request) -> Result<Answer, Failure> {
    let streams = request.query.flag_or("stream", true);
    let at_once = request.since(41) && request.query.flag("one-shot");
    let name = request.name.clone();
    if !streams {
        let first = quick(&state, move |engine| {
            let mut before = Before::default();
            let frame = engine.container_stats(&name, &mut before)?;
            Ok((frame, before, engine.container_is_running(&name)?, name))
        });
        let (frame, mut before, runs, name) = first.await?;
        if at_once || !runs {
            return Ok(answer::ok(&frame));
        }
        tokio::time::sleep(PACE).await;
        let frame = quick(&state, move |engine| {
            engine.container_stats(&name, &mut before)
        });
        return Ok(answer::ok(&frame.await?));
    }
    let first = {
        let name = name.clone();
        quick(&state, move |engine| {
            let mut before = Before::default();
            let frame = engine.container_stats(&name, &mut before)?;
            Ok((frame, before))
        })
    };
    let (mut frame, mut before) = first.await?;
    let (feed, stream) = answer::stream(answer::STREAM_DEPTH);
    let stream = stream.until(request.ended()?);
    spawn("stats", move || {
        loop {
            let Ok(line) = answer::line(&frame) else {
                return;
            };
            if feed.send(line).is_err() {
                return;
            }
            std::thread::sleep(PACE);
            match state.engine.container_stats(&name, &mut before) {
                Ok(next) => frame = next,
                // It was removed.
                Err(_) => return,
            }
        }
    })?;
    Ok(answer::streamed("application/json", stream))
}
