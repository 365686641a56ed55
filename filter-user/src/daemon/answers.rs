// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which answer a request gets, and from where.

use std::time::Instant;

use anyhow::{Result, anyhow};

use super::Daemon;
use crate::{
    control::{
        protocol::{Flushed, Request},
        server::{Answer, Call},
    },
    policy::Fqdn,
};

impl Daemon {
    /// Does what a client asks for, and answers.
    pub(super) async fn answer_call(&mut self, call: Call) {
        let Call { request, caller, reply } = call;
        let answer = match request {
            Request::Status => Answer::new(self.status().await),
            Request::Rules => Answer::new(self.rules()),
            Request::Names => Answer::new(Ok(self.names.report(Instant::now()))),
            Request::Flush(flush) => {
                let flushed = self.flush_names(flush.pattern.as_deref());
                Answer::new(flushed.map(|addresses| Flushed { addresses }))
            }
            Request::Resolve(resolve) => match Fqdn::try_from(resolve.name.as_str()) {
                Ok(name) => {
                    self.start_resolving(name, reply);
                    return;
                }
                Err(invalid) => {
                    refused(anyhow!("{:?} can't be looked up: {invalid}", resolve.name))
                }
            },
            Request::Explain(question) => Answer::new(self.explain(&question)),
            Request::Flows(question) => Answer::new(self.list_flows(&question).await),
            Request::Kill(filter) => Answer::new(self.kill_flows(&filter).await),
            Request::Reload(request) => Answer::new(self.reload(&request, &caller).await),
            Request::Allows => Answer::new(self.allows()),
            Request::Allow(request) => Answer::new(self.allow(request, &caller).await),
            Request::Revoke(id) => Answer::new(self.revoke(id, &caller).await),
            Request::Preview(files) => Answer::new(self.preview(files).await),
            Request::Apply(request) => Answer::new(self.apply(request, &caller).await),
            Request::Confirm => Answer::new(self.confirm(&caller).await),
            Request::Rollback(request) => Answer::new(self.rollback(&request, &caller).await),
            Request::Policies => Answer::new(self.policies()),
            Request::Usage => Answer::new(self.usage()),
            Request::Metrics => match self.metrics().await {
                Ok(text) => Answer::Given(text),
                Err(error) => refused(error),
            },
            // The socket's own tasks serve these.
            Request::Drops => refused(anyhow!("drops are followed, not answered")),
            Request::Description => refused(anyhow!("the socket describes itself")),
        };
        // A client that went away doesn't want its answer any more.
        drop(reply.send(answer));
    }
}

fn refused(error: anyhow::Error) -> Answer {
    Answer::new::<()>(Result::Err(error))
}
