//! What a person types: docker's verbs, over the same socket as any other client.
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | the command line's one definition |
//! | [`engine`] | finds the engine or starts one, asks it things |
//! | [`http`] | HTTP/1.1 as a client, and leaving it |
//! | [`create`] | flags to create requests |
//! | [`run`], [`exec`] | containers with somebody at the other end; [`streams`], [`terminal`] |
//! | [`containers`], [`copy`], [`images`], [`search`], [`stats`], [`objects`], [`system`] | the other verbs |
//! | [`accounts`] | logins at registries, and the proof that goes with requests |
//! | [`host`] | what needs no daemon |
//! | [`table`], [`tree`], [`progress`], [`output`], [`whole`] | how answers look, and how they are kept |
//! | [`error`] | how a verb ends |
//!
//! A verb is single-threaded, blocking code. It knows nothing of the engine but the API; only
//! [`host`] looks at this user's host itself.

pub mod accounts;
pub mod args;
mod bars;
pub mod containers;
pub mod copy;
pub mod create;
pub mod engine;
pub mod error;
pub mod exec;
pub mod filters;
pub mod host;
pub mod http;
pub mod images;
pub mod install;
pub mod networks;
pub mod objects;
pub mod output;
pub mod progress;
pub mod prune;
pub mod run;
pub mod search;
pub mod stats;
pub mod streams;
pub mod system;
pub mod table;
pub mod terminal;
pub mod tree;
mod usage;
mod whole;

use std::ffi::OsString;

use anyhow::Result;

use args::{ContainerGroup, ImageGroup, SystemGroup, Verb};
use engine::{Client, Place};
use error::Exit;

/// What `moss daemon` runs: `main` hands it in, as the daemon is beside this folder, not below it.
pub type Serve = fn(&args::Daemon) -> Result<()>;

/// Does what was typed; the exit status.
pub fn main(words: &[OsString], serve: Serve) -> i32 {
    match obey(words, serve) {
        Ok(()) => 0,
        Err(error) => {
            let (message, status) = error::conclude(&error);
            if !message.is_empty() {
                output::complain(&message);
            }
            status
        }
    }
}

fn obey(words: &[OsString], serve: Serve) -> Result<()> {
    let parsed = match args::parse(words) {
        Ok(parsed) => parsed,
        Err(refusal) if refusal.status == 0 => {
            return output::line(refusal.message.trim_end_matches('\n'));
        }
        Err(refusal) => return Err(Exit::because(refusal.status, refusal.message)),
    };
    let variable = std::env::var("MOSS_HOST").ok();
    if let Some(directory) = parsed.config {
        accounts::keep_in(directory);
    }
    let place = Place::choose(parsed.host.as_deref(), variable.as_deref())?;
    match &parsed.verb {
        Verb::Doctor(roots) => return host::doctor(roots),
        Verb::Daemon(daemon) => return serve(daemon),
        Verb::Version(version) => return system::version(&place, version),
        Verb::Logout(logout) => return accounts::logout(logout),
        Verb::System(SystemGroup::Check(roots)) => return host::check(roots),
        Verb::System(SystemGroup::Install) => return install::install(),
        Verb::System(SystemGroup::Stop(stop)) => return host::stop(&place, stop),
        _ => {}
    }
    let find = || Client::find(&place);
    match parsed.verb {
        // What keeps `run` and `create` from an engine has their status.
        Verb::Run(verb) => run::run(&find().map_err(|error| engine_failed(&error))?, &verb),
        Verb::Create(flags) => run::create(&find().map_err(|error| engine_failed(&error))?, &flags),
        Verb::Start(verb) => run::start(&find()?, &verb),
        Verb::Attach(verb) => run::attach(&find()?, &verb),
        Verb::Exec(verb) => exec::exec(&find()?, &verb),
        Verb::Wait(verb) => run::wait(&find()?, &verb.names),
        Verb::Stop(verb) => containers::stop(&find()?, &verb, "stop"),
        Verb::Restart(verb) => containers::stop(&find()?, &verb, "restart"),
        Verb::Kill(verb) => containers::kill(&find()?, &verb),
        Verb::Rm(verb) => containers::remove(&find()?, &verb),
        Verb::Stats(verb) => stats::stats(&find()?, &verb),
        Verb::Cp(verb) => copy::copy(&find()?, &verb),
        Verb::Diff(verb) => copy::diff(&find()?, &verb),
        Verb::Export(verb) => copy::export(&find()?, &verb),
        Verb::Commit(verb) => copy::commit(&find()?, &verb),
        Verb::Pause(verb) => containers::pause(&find()?, &verb, "pause"),
        Verb::Unpause(verb) => containers::pause(&find()?, &verb, "unpause"),
        Verb::Port(verb) => containers::port(&find()?, &verb),
        Verb::Update(verb) => containers::update(&find()?, &verb),
        Verb::Rename(verb) => containers::rename(&find()?, &verb),
        Verb::Ps(verb) => containers::ps(&find()?, &verb),
        Verb::Logs(verb) => containers::logs(&find()?, &verb),
        Verb::Top(verb) => containers::top(&find()?, &verb),
        Verb::Inspect(verb) => objects::inspect(&find()?, &verb),
        Verb::Images(verb) => images::list(&find()?, &verb),
        Verb::Pull(verb) => images::pull(&find()?, &verb),
        Verb::Search(verb) => search::search(&find()?, &verb),
        Verb::Push(verb) => images::push(&find()?, &verb),
        Verb::Load(verb) => images::load(&find()?, &verb),
        Verb::Save(verb) => images::save(&find()?, &verb),
        Verb::Import(verb) => images::import(&find()?, &verb),
        Verb::Rmi(verb) => images::remove(&find()?, &verb),
        Verb::Tag(verb) => images::tag(&find()?, &verb),
        Verb::History(verb) => images::history(&find()?, &verb),
        Verb::Login(verb) => accounts::login(&find()?, &verb),
        Verb::Info(verb) => system::info(&find()?, &verb),
        Verb::Events(verb) => system::events(&find()?, &verb),
        Verb::Volume(verb) => objects::volume(&find()?, &verb),
        Verb::Network(verb) => networks::network(&find()?, &verb),
        Verb::Container(ContainerGroup::Prune(verb)) => containers::prune(&find()?, &verb),
        Verb::Image(ImageGroup::Prune(verb)) => images::prune(&find()?, &verb),
        Verb::System(SystemGroup::Df(verb)) => usage::show(&find()?, &verb),
        Verb::System(SystemGroup::Prune(verb)) => system::prune(&find()?, &verb),
        Verb::Doctor(_)
        | Verb::Daemon(_)
        | Verb::Version(_)
        | Verb::Logout(_)
        | Verb::Container(_)
        | Verb::Image(_)
        | Verb::System(_) => unreachable!("obeyed above, or made a verb of its own by the parser"),
    }
}

fn engine_failed(error: &anyhow::Error) -> anyhow::Error {
    Exit::because(
        error::ENGINE_FAILED,
        format!("moss: {}", error::describe(error)),
    )
}
