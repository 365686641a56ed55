// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program on what leaves a NIC: by a pinned TCX link where the kernel has it (Linux 6.6 and
//! newer), by a filter of the qdisc `clsact` elsewhere. Either outlives the process.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::{
        Link as _, LinkOrder, ProgramError, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        },
    },
    util::KernelVersion,
};

use super::{
    object::Instance,
    pins::{NicPins, PinDirectory, pin_beside},
};

/// The first kernel with TCX links.
const FIRST_WITH_TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// The filter's place in the qdisc: before those that were added without one. One number for all
/// versions, so that each finds what an earlier one left.
const PRIORITY: u16 = 0x51;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Attaches the program on what leaves a NIC, or replaces the one that is there, without a gap.
///
/// # Errors
///
/// The kernel refuses the program or the link.
pub(super) fn attach(pins: &PinDirectory, nic: &NicPins, instance: &mut Instance) -> Result<()> {
    let place = || format!("the program on what leaves {} can't be attached", nic.name);
    if KernelVersion::current().context("the kernel doesn't tell its version")? >= FIRST_WITH_TCX {
        attach_link(pins, nic, instance).with_context(place)?;
    } else {
        attach_filter(nic, instance).with_context(place)?;
    }
    let program = instance.egress_program()?;
    pin_beside(&pins.next_egress_program(nic), &pins.egress_program(nic), |path| {
        Ok(program.pin(path)?)
    })
    .with_context(|| format!("the program on what leaves {} can't be pinned", nic.name))
}

fn attach_link(pins: &PinDirectory, nic: &NicPins, instance: &mut Instance) -> Result<()> {
    let path = pins.egress_link(nic);
    if path.exists() {
        let link = FdLink::from(PinnedLink::from_pin(&path)?);
        match instance.egress_program()?.attach_to_link(SchedClassifierLink::try_from(link)?) {
            Ok(_) => return Ok(()),
            // The kernel keeps a link whose NIC is gone, and refuses to update it.
            Err(ProgramError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(nix::errno::Errno::ENOLINK as i32) =>
            {
                fs::remove_file(&path)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let program = instance.egress_program()?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(nic.name.as_str(), TcAttachType::Egress, options)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    link.pin(path)?;
    Ok(())
}

fn attach_filter(nic: &NicPins, instance: &mut Instance) -> Result<()> {
    let name = nic.name.as_str();
    match qdisc_add_clsact(name) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error))
            if error.raw_os_error() == Some(nix::errno::Errno::EEXIST as i32) => {}
        Err(error) => return Err(error.into()),
    }
    let program = instance.egress_program()?;
    // Replacing comes first: a filter that is there is never taken off.
    let id = match program.attach_to_link(filter(nic)?) {
        Ok(id) => id,
        Err(absent) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            let options = TcAttachOptions::Netlink(options);
            program
                .attach_with_options(name, TcAttachType::Egress, options)
                .with_context(|| format!("no filter can be replaced ({absent:#}), nor added"))?
        }
    };
    // A link of this kind takes the filter off when it is dropped.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn filter(nic: &NicPins) -> Result<SchedClassifierLink> {
    let (name, way) = (nic.name.as_str(), TcAttachType::Egress);
    Ok(SchedClassifierLink::attached(name, way, PRIORITY, HANDLE, None)?)
}

/// Takes the filter off a NIC; one that is gone has none.
///
/// # Errors
///
/// The kernel refuses.
pub(super) fn take_off_filter(nic: &NicPins) -> Result<()> {
    if nix::net::if_::if_nametoindex(nic.name.as_str()).is_err() {
        return Ok(());
    }
    filter(nic)?.detach().with_context(|| {
        format!("the program on what leaves {0} can't be taken off; `tc qdisc del dev {0} clsact` does it", nic.name)
    })
}

/// Whether the program of an instance is at work on what leaves its NIC.
///
/// The kernel lists the programs of a NIC by their ids, and gives them out by these only to who has
/// `CAP_SYS_ADMIN`. So the pinned link is asked instead.
///
/// # Errors
///
/// The kernel doesn't tell.
pub(super) fn is_attached(pins: &PinDirectory, nic: &NicPins, instance: &Instance) -> Result<bool> {
    let Some(program) = &instance.egress else { bail!("the instance only observes") };
    let Ok(interface) = nix::net::if_::if_nametoindex(nic.name.as_str()) else { return Ok(false) };
    let current = KernelVersion::current().context("the kernel doesn't tell its version")?;
    if current < FIRST_WITH_TCX {
        // There is no such question for filters short of listing them all.
        return Ok(true);
    }
    let path = pins.egress_link(nic);
    if !path.exists() {
        return Ok(false);
    }
    let link = FdLink::from(PinnedLink::from_pin(&path)?);
    let info = link.info()?;
    // A link whose NIC is gone stays, with its program and without a NIC.
    Ok(info.program_id() == program.id && interface_of(info.id())? == Some(interface))
}

/// The NIC of a link that this process has open, by the kernel's index; `None` if it has none any more.
fn interface_of(link: u32) -> Result<Option<u32>> {
    let files = Path::new("/proc/self/fd");
    for entry in fs::read_dir(files).context("/proc/self/fd can't be read")? {
        let entry = entry?;
        // Other threads close files meanwhile. There are hundreds, and to tell of some takes the
        // kernel long, so that only links are looked at (`bpf_link` and `bpf-link` in the kernel).
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        if !target.contains("bpf") || !target.contains("link") {
            continue;
        }
        let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
        let Ok(text) = fs::read_to_string(info) else { continue };
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?.strip_prefix(':')?;
            value.trim().parse::<u32>().ok()
        };
        if field("link_id") == Some(link) {
            let interface = field("ifindex").context("the kernel doesn't tell a link's NIC")?;
            return Ok(Some(interface).filter(|index| *index != 0));
        }
    }
    bail!("the kernel doesn't tell of link {link}, which is open")
}
