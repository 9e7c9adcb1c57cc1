//! Every row of the coherence table, one after another: brings pages to the place with the work in flight, touches them, and lets the
//! rig compare. The gates hold back the news that work has ended, so what is in flight is no matter of luck.

use std::time::Duration;

use hmmap_core::{DeviceId, Error, Options, backend::DeviceError};

use super::Verdict;
use crate::{
    case::{Case, CaseFailure, Context, Need, ensure},
    mirror::Mirror,
    observe::rows_now,
    rig::{PAGE, Rig},
    table::{Flight, Model, Place, Row, Touch},
};

const GROUP: &str = "coherence";
const TWO: &[Need] = &[Need::TwoDevices];
const MIGRATE: &[Need] = &[Need::Migrate];
const MIGRATE_TWO: &[Need] = &[Need::Migrate, Need::TwoDevices];

pub(super) const CASES: &[Case] = &[
    Case::new(GROUP, "empty", "pages that nobody wrote read as zero and cost no copy", &[], |cx| {
        every_row(cx, Place::Empty)
    }),
    Case::new(GROUP, "on_host", "pages on the host", &[], |cx| every_row(cx, Place::Host)),
    Case::new(GROUP, "on_device", "pages on one device alone", MIGRATE, |cx| {
        every_row(cx, Place::Device)
    }),
    Case::new(GROUP, "on_host_and_device", "pages that host and device share", MIGRATE, |cx| {
        every_row(cx, Place::HostAndDevice)
    }),
    Case::new(GROUP, "on_other_device", "pages on another device alone", MIGRATE_TWO, |cx| {
        every_row(cx, Place::Other)
    }),
    Case::new(
        GROUP,
        "on_host_and_other_device",
        "pages that the host shares with another device",
        MIGRATE_TWO,
        |cx| every_row(cx, Place::HostAndOther),
    ),
    Case::new(
        GROUP,
        "on_host_and_both_devices",
        "pages that the host shares with two devices",
        MIGRATE_TWO,
        |cx| every_row(cx, Place::HostAndBoth),
    ),
    Case::new(
        GROUP,
        "on_both_devices",
        "pages that two devices share without the host",
        &[Need::Migrate, Need::TwoDevices, Need::Direct],
        |cx| every_row(cx, Place::Both),
    ),
    Case::new(
        GROUP,
        "on_host_at_work_for_another",
        "host pages that another device works on in place",
        &[Need::Unified, Need::TwoDevices],
        at_work_for_another,
    ),
    Case::new(
        GROUP,
        "lost",
        "pages whose only copy went with a device are reported until they are overwritten",
        TWO,
        lost,
    ),
];

/// Three pages: a write of a part of them covers the middle one whole.
const LEN: usize = 3 * PAGE;
/// What a write of a part leaves out at each end, in elements.
const MARGIN: usize = 10;

/// The vectors beside the one that is looked at.
struct Beside {
    /// Read when the one looked at is updated.
    ones: Mirror,
    /// Where each device's readings go.
    read_out: [Mirror; 2],
}

impl Beside {
    fn new(rig: &Rig<'_>, devices: Devices) -> Result<Self, CaseFailure> {
        let mut beside =
            Self { ones: rig.filled(LEN, |_| 1.0)?, read_out: [rig.zeros(LEN)?, rig.zeros(LEN)?] };
        // Brings them where they are needed, so that they add nothing to what is looked at.
        let [first, second] = &mut beside.read_out;
        rig.copy(rig.device(), (&beside.ones, ..), (first, ..))?;
        if let Devices::Two = devices {
            rig.copy(rig.other(), (&beside.ones, ..), (second, ..))?;
        }
        rig.settle()?;
        Ok(beside)
    }

    /// Where what `device` reads goes.
    fn read_out(&mut self, rig: &Rig<'_>, device: DeviceId) -> &mut Mirror {
        &mut self.read_out[usize::from(device != rig.device())]
    }
}

/// A rig whose work counts as in flight until somebody waits, and whose waits run out at once while the gates are held.
fn late_rig<'c>(cx: &'c Context<'c>, devices: Devices) -> Result<Rig<'c>, CaseFailure> {
    let options = Options { own_fence_deadline: Some(Duration::ZERO), ..cx.options() };
    let rig = match devices {
        Devices::One => cx.rig_with(options)?,
        Devices::Two => cx.rig_of_two_with(options)?,
    };
    rig.late();
    Ok(rig)
}

#[derive(Clone, Copy)]
enum Devices {
    One,
    Two,
}

fn every_row(cx: &Context<'_>, place: Place) -> Verdict {
    let one = matches!(place, Place::Empty | Place::Host | Place::Device | Place::HostAndDevice);
    let devices = if one { Devices::One } else { Devices::Two };
    let rig = late_rig(cx, devices)?;
    rows(&rig, devices, |row| {
        let other = matches!(row.flight, Flight::OtherRead | Flight::OtherWrite);
        row.place == place && !other
    })
}

fn at_work_for_another(cx: &Context<'_>) -> Verdict {
    let rig = late_rig(cx, Devices::Two)?;
    rows(&rig, Devices::Two, |row| matches!(row.flight, Flight::OtherRead | Flight::OtherWrite))
}

/// Goes through the rows that are `wanted`, each on a vector of its own.
fn rows(rig: &Rig<'_>, devices: Devices, wanted: impl Fn(&Row) -> bool) -> Verdict {
    let mut beside = Beside::new(rig, devices)?;
    let used_bytes = rig.used_bytes()?;
    for row in Row::all(rig.model()).into_iter().filter(wanted) {
        let mut looked_at = bring(rig, &mut beside, row.place, row.flight)?;
        let found = rows_now(rig, &looked_at.vec, row.touch)?;
        ensure!(found.contains(&row), "wanted a page that is {row}, got {found:?}");
        if row.touch == Touch::Drop {
            rig.drop_vec(looked_at)?;
        } else {
            touch(rig, &mut beside, row.touch, &mut looked_at)?;
            rig.settle()?;
            rig.host_read(&looked_at, ..)?;
            drop(looked_at);
        }
        rig.settle()?;
        rig.sweep()?;
        let now_bytes = rig.used_bytes()?;
        ensure!(now_bytes == used_bytes, "{row}: {used_bytes} bytes used before, {now_bytes} now");
    }
    for read_out in &beside.read_out {
        rig.host_read(read_out, ..)?;
    }
    Ok(())
}

/// A vector whose pages are at `place`, with `flight` in flight.
fn bring(
    rig: &Rig<'_>,
    beside: &mut Beside,
    place: Place,
    flight: Flight,
) -> Result<Mirror, CaseFailure> {
    let pattern = |i: usize| (i % 1021) as f32;
    let holder = match place {
        Place::Other | Place::HostAndOther => rig.other(),
        _ => rig.device(),
    };
    match place {
        Place::Empty | Place::Lost => rig.zeros(LEN),
        Place::Host => {
            let mut vec = rig.filled(LEN, pattern)?;
            work_on_host_page(rig, beside, &mut vec, flight)?;
            Ok(vec)
        }
        Place::Device | Place::Other => {
            let mut vec = rig.zeros(LEN)?;
            if flight != Flight::CopyIn {
                rig.fill(holder, &mut vec, .., 3.0)?;
            }
            if matches!(flight, Flight::Idle | Flight::Read) {
                rig.settle()?;
            }
            if matches!(flight, Flight::CopyIn | Flight::Read) {
                rig.copy(holder, (&vec, ..), (beside.read_out(rig, holder), ..))?;
            }
            Ok(vec)
        }
        Place::HostAndDevice | Place::HostAndOther if flight == Flight::CopyHome => {
            let mut vec = rig.zeros(LEN)?;
            rig.fill(holder, &mut vec, .., 4.0)?;
            rig.settle()?;
            rig.hold();
            let answer = vec.vec.host(..).map(|_| ());
            let timed_out = matches!(answer, Err(Error::FenceTimedOut { .. }));
            ensure!(timed_out, "a wait that must run out ended {answer:?}");
            rig.late();
            Ok(vec)
        }
        Place::HostAndDevice | Place::HostAndOther => {
            let vec = rig.filled(LEN, pattern)?;
            rig.copy(holder, (&vec, ..), (beside.read_out(rig, holder), ..))?;
            if flight != Flight::CopyIn {
                rig.settle()?;
            }
            if flight == Flight::Read {
                rig.copy(holder, (&vec, ..), (beside.read_out(rig, holder), ..))?;
            }
            Ok(vec)
        }
        Place::Both => {
            let mut vec = rig.zeros(LEN)?;
            rig.fill(rig.other(), &mut vec, .., 3.0)?;
            rig.settle()?;
            let device = rig.device();
            rig.copy(device, (&vec, ..), (beside.read_out(rig, device), ..))?;
            rig.settle()?;
            Ok(vec)
        }
        Place::HostAndBoth => {
            let vec = rig.filled(LEN, pattern)?;
            for device in [rig.device(), rig.other()] {
                rig.copy(device, (&vec, ..), (beside.read_out(rig, device), ..))?;
            }
            rig.settle()?;
            Ok(vec)
        }
    }
}

/// Puts work in flight on pages that stay on the host.
fn work_on_host_page(
    rig: &Rig<'_>,
    beside: &mut Beside,
    vec: &mut Mirror,
    flight: Flight,
) -> Verdict {
    let [first, second] = &mut beside.read_out;
    match flight {
        Flight::Read => {
            rig.copy(rig.device(), (vec, ..), (first, ..))?;
            if rig.model() != Model::Unified {
                // The device goes on reading its copy while the host's becomes the only current one.
                rig.host_write(vec, .., |i| (i % 997) as f32)?;
            }
        }
        Flight::Write => drop(rig.fill(rig.device(), vec, .., 5.0)?),
        Flight::OtherRead => drop(rig.copy(rig.other(), (vec, ..), (second, ..))?),
        Flight::OtherWrite => drop(rig.fill(rig.other(), vec, .., 6.0)?),
        Flight::Idle | Flight::CopyIn | Flight::CopyHome => {}
    }
    Ok(())
}

fn touch(rig: &Rig<'_>, beside: &mut Beside, touch: Touch, vec: &mut Mirror) -> Verdict {
    let device = rig.device();
    match touch {
        Touch::HostRead => rig.host_read(vec, ..)?,
        Touch::HostUpdate => rig.host_write(vec, .., |i| (i % 1013) as f32 + 0.5)?,
        Touch::HostWriteWhole => rig.host_overwrite(vec, .., |i| (i % 1009) as f32)?,
        Touch::HostWritePart => {
            let part = MARGIN..vec.len() - MARGIN;
            rig.host_overwrite(vec, part, |i| (i % 1009) as f32)?;
        }
        Touch::Discard => rig.discard(vec, ..)?,
        Touch::DeviceRead => {
            let [first, _] = &mut beside.read_out;
            rig.copy(device, (vec, ..), (first, ..))?;
        }
        Touch::DeviceUpdate => drop(rig.saxpy(device, 2.0, (&beside.ones, ..), (vec, ..))?),
        Touch::DeviceWriteWhole => drop(rig.fill(device, vec, .., 7.0)?),
        Touch::DeviceWritePart => {
            let part = MARGIN..vec.len() - MARGIN;
            drop(rig.fill(device, vec, part, 8.0)?);
        }
        Touch::Prefetch => drop(rig.prefetch(device, vec, ..)?),
        Touch::Drop => {}
    }
    Ok(())
}

fn lost(cx: &Context<'_>) -> Verdict {
    let rig = late_rig(cx, Devices::Two)?;
    // What the second device shares would change with it.
    let mut beside = Beside::new(&rig, Devices::One)?;
    let mut vecs = Vec::new();
    for touch in Touch::ALL {
        let mut vec = rig.filled(LEN, |i| i as f32)?;
        rig.fill(rig.other(), &mut vec, .., 9.0)?;
        vecs.push((touch, vec));
    }
    // Where kernels write host memory in place, what is in flight is what goes; elsewhere what the device alone has.
    if rig.model() != Model::Unified {
        rig.settle()?;
    }
    rig.gate(rig.other()).lose();
    for (wanted, mut vec) in vecs {
        hear_of_the_loss(&vec)?;
        let found = rows_now(&rig, &vec.vec, wanted)?;
        let row = Row { place: Place::Lost, flight: Flight::Idle, touch: wanted };
        ensure!(found.contains(&row), "wanted a page that is {row}, got {found:?}");
        match wanted {
            Touch::Drop => rig.drop_vec(vec)?,
            Touch::DeviceWriteWhole | Touch::HostWriteWhole | Touch::Discard => {
                touch(&rig, &mut beside, wanted, &mut vec)?;
                rig.host_read(&vec, ..)?;
            }
            _ => touch(&rig, &mut beside, wanted, &mut vec)?,
        }
    }
    let [first, _] = &beside.read_out;
    rig.host_read(first, ..)
}

/// Reads until the answer is that the data are lost; before that, at most the loss of the device is reported, once each way.
fn hear_of_the_loss(vec: &Mirror) -> Verdict {
    for _ in 0..3 {
        match vec.vec.host(..) {
            Err(Error::DataLost { bytes }) => {
                ensure!(bytes == (0..LEN as u64 * 4), "lost are {bytes:?}, not the whole vector");
                return Ok(());
            }
            Err(Error::DeviceLost { .. } | Error::Device { source: DeviceError::Lost, .. }) => {}
            other => {
                return Err(CaseFailure::broken(format!("reading lost data gave {other:.60?}")));
            }
        }
    }
    Err(CaseFailure::broken("the loss of the device is reported again and again".to_owned()))
}
