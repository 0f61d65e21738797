//! What a client that reads slowly, or not at all, has yet to be told of a pull or a push.
//!
//! Whoever tells is in the middle of a transfer, and holds places that others wait for; so telling
//! waits for nothing. What a client has no room for is kept here, in order, and goes out when there
//! is room again, at the latest at the transfer's end. How far something is need not be kept: the
//! next such message says more. Of what is kept there is little, a few messages a layer; where it
//! becomes much ([`MUCH`]), only the last one of each id is.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::answer::{Feed, Gone};
use crate::api::progress::JsonMessage;

/// How many messages are kept before those of one id replace each other.
const MUCH: usize = 1024;

/// A client's feed, and what waits for room in it.
#[derive(Debug)]
pub struct Backlog {
    feed: Feed,
    waiting: Mutex<VecDeque<JsonMessage>>,
}

impl Backlog {
    /// Of a feed that nobody else uses.
    pub fn new(feed: Feed) -> Backlog {
        let waiting = Mutex::default();
        Backlog { feed, waiting }
    }

    /// Tells the client as soon as there is room.
    ///
    /// # Errors
    /// The client is gone.
    pub fn tell(&self, message: JsonMessage) -> Result<(), Gone> {
        let mut waiting = self.waiting();
        let has_room = waiting.is_empty() && self.feed.has_room();
        if has_room || !is_passing(&message) {
            if waiting.len() >= MUCH {
                waiting.retain(|kept| kept.id.is_empty() || kept.id != message.id);
            }
            waiting.push_back(message);
        }
        while self.feed.has_room()
            && let Some(message) = waiting.pop_front()
        {
            self.feed.try_send(message.to_line())?;
        }
        match self.feed.is_gone() {
            true => Err(Gone),
            false => Ok(()),
        }
    }

    /// Tells the client all that is left, waiting for it, and then `last`.
    ///
    /// # Errors
    /// The client is gone.
    pub fn finish(&self, last: Option<JsonMessage>) -> Result<(), Gone> {
        let rest = std::mem::take(&mut *self.waiting());
        let mut rest = rest.into_iter().chain(last);
        rest.try_for_each(|message| self.feed.send(message.to_line()))
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<JsonMessage>> {
        // Each message is put in or taken out whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a message says how far something is that will be further soon.
fn is_passing(message: &JsonMessage) -> bool {
    let detail = message.progress_detail;
    detail.is_some_and(|detail| detail.current != detail.total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::answer;

    /// All that the client gets after `last`.
    fn rest(backlog: Backlog, mut stream: answer::Stream, last: JsonMessage) -> Vec<String> {
        let ending = std::thread::spawn(move || backlog.finish(Some(last)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut told = Vec::new();
        runtime.block_on(async {
            while let Some(piece) = stream.next().await {
                told.push(String::from_utf8(piece.to_vec()).unwrap());
            }
        });
        ending.join().unwrap().unwrap();
        told
    }

    #[test]
    fn nobody_waits_for_a_client_that_does_not_read() {
        let (feed, stream) = answer::stream(2);
        let backlog = Backlog::new(feed);
        let mut wanted = Vec::new();
        for number in 0..10 {
            let message = JsonMessage::status(&number.to_string(), "Pushed");
            wanted.push(String::from_utf8(message.to_line()).unwrap());
            backlog.tell(message).unwrap();
            backlog
                .tell(JsonMessage::progress("1", "Pushing", number, 20))
                .unwrap();
        }
        let last = JsonMessage::error("no");
        wanted.push(String::from_utf8(last.to_line()).unwrap());
        let told = rest(backlog, stream, last);
        // The first that was on its way, and then nothing that will be further soon.
        let passing = told.iter().filter(|line| line.contains("Pushing")).count();
        assert_eq!(passing, 1, "{told:?}");
        assert_eq!(told.len(), wanted.len() + 1);
        assert!(wanted.iter().all(|line| told.contains(line)));
        assert_eq!(told.last(), wanted.last());
    }

    #[test]
    fn what_is_kept_is_bounded_by_what_it_is_about() {
        let (feed, stream) = answer::stream(1);
        let backlog = Backlog::new(feed);
        for number in 0..5 * MUCH {
            let status = number.to_string();
            backlog.tell(JsonMessage::status("a", status)).unwrap();
        }
        assert!(backlog.waiting().len() <= MUCH);
        assert!(rest(backlog, stream, JsonMessage::error("no")).len() <= MUCH + 2);
    }

    #[test]
    fn a_client_that_left_is_noticed() {
        let (feed, stream) = answer::stream(1);
        let backlog = Backlog::new(feed);
        backlog.tell(JsonMessage::status("", "a")).unwrap();
        drop(stream);
        assert_eq!(
            backlog.tell(JsonMessage::progress("a", "b", 1, 2)),
            Err(Gone)
        );
    }
}
