// SPDX-License-Identifier: MIT OR Apache-2.0
//! Look-ups over the network: the IO half of [`crate::names`].
//!
//! Of hickory only the wire format is used. Its resolver would age answers itself, and hides
//! which records belong to the question and which upstream said what; asking a question takes few
//! lines without it. Each question leaves from a socket of its own (so from a port that the
//! kernel picked at random) with a random id and random letter case, and an answer counts only if
//! all of that comes back from the address that was asked. Over TLS it is the certificate that
//! tells who answers.

mod chain;
mod count;
mod exchange;
pub mod forwarder;
mod name;
#[cfg(test)]
mod tests;
mod tls;
mod upstream;
mod wire;

use std::{net::IpAddr, sync::Arc, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

pub use self::{count::Counters, upstream::Health};
use self::{
    name::to_name,
    upstream::{Response, Upstream},
};
use crate::{
    names::{Answer, LookupFailure},
    policy::Fqdn,
};

/// The time for a whole look-up.
const LOOKUP_LIMIT: Duration = Duration::from_millis(4800);

/// Asks the upstream resolvers. It keeps no answer.
#[derive(Debug)]
pub struct Resolver {
    upstreams: Vec<Upstream>,
    counters: Arc<Counters>,
}

/// What one address family of a name has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Half {
    addresses: Vec<(IpAddr, u32)>,
    chain: Vec<Fqdn>,
    resolver: IpAddr,
}

// === impl Resolver ===

impl Resolver {
    /// Asks for the addresses of a name, of both families at once. It takes less than 5 s.
    ///
    /// # Errors
    ///
    /// Neither family has an address. Where only one failed, the other is the answer.
    pub async fn lookup(&self, name: &Fqdn) -> Result<Answer, LookupFailure> {
        let question = to_name(name)?;
        let (v4, v6) = tokio::join!(
            self.lookup_family(&question, RecordType::A),
            self.lookup_family(&question, RecordType::AAAA),
        );
        combine(v4, v6)
    }

    async fn lookup_family(
        &self,
        question: &Name,
        family: RecordType,
    ) -> Result<Half, LookupFailure> {
        let response = self.ask(question, family, LOOKUP_LIMIT).await?;
        read(&response, question, family)
    }
}

/// What a response says about the addresses of a name.
fn read(response: &Response, question: &Name, family: RecordType) -> Result<Half, LookupFailure> {
    let Response { message, resolver } = response;
    if message.metadata.response_code == ResponseCode::NXDomain {
        return Err(LookupFailure::NxDomain);
    }
    let chain::Followed { addresses, chain } = chain::follow(question, family, &message.answers)
        .map_err(|error| LookupFailure::Other(error.to_string()))?;
    if addresses.is_empty() {
        return Err(LookupFailure::NoData);
    }
    Ok(Half { addresses, chain, resolver: *resolver })
}

/// Both families together: what one has counts, whatever became of the other.
fn combine(
    v4: Result<Half, LookupFailure>,
    v6: Result<Half, LookupFailure>,
) -> Result<Answer, LookupFailure> {
    match (v4, v6) {
        (Ok(mut first), Ok(second)) => {
            first.addresses.extend(second.addresses);
            // The families nearly always share their aliases; what only the second has is
            // appended, so that no alias that brought an address in is missing.
            for alias in second.chain {
                if !first.chain.contains(&alias) {
                    first.chain.push(alias);
                }
            }
            Ok(first.into_answer(None))
        }
        // Some servers deny the name where they should deny the family.
        (Ok(half), Err(failure)) | (Err(failure), Ok(half)) => {
            Ok(half.into_answer((!is_lasting(&failure)).then_some(failure)))
        }
        // Of two failures the one that may pass is told: the name may well have addresses.
        (Err(LookupFailure::NoData), Err(other)) => Err(other),
        (Err(LookupFailure::NxDomain), Err(other)) if !is_lasting(&other) => Err(other),
        (Err(first), Err(_second)) => Err(first),
    }
}

/// Whether a failure is a statement about the name rather than about the resolver.
fn is_lasting(failure: &LookupFailure) -> bool {
    matches!(failure, LookupFailure::NxDomain | LookupFailure::NoData)
}

// === impl Half ===

impl Half {
    fn into_answer(self, missing: Option<LookupFailure>) -> Answer {
        let Self { addresses, chain, resolver } = self;
        Answer { records: addresses, chain, resolver, missing }
    }
}
