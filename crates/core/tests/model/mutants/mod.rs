//! Rules that are wrong on purpose. Each must be rejected, and by the invariant that it breaks: a model that accepts them proves nothing.

mod effects;
mod evicting;
mod planning;
mod settling;
mod waiting;

use crate::{
    DIRECT, ONE_DEVICE, ONE_PAGE, SHARED_HOST, THREE, TRANSFER_QUEUE, explore::explore,
    rules::Rules, world::Shape,
};

/// Asserts that rules are rejected, and by which invariant.
#[track_caller]
fn rejected(rules: &impl Rules, shape: &Shape, invariant: &str) {
    match explore(shape, rules) {
        Ok(found) => panic!("accepted in {} states of {}", found.states, shape.name),
        Err(counterexample) => {
            assert_eq!(counterexample.broken.name(), invariant, "{counterexample:?}");
            println!("{invariant}, {} steps from the start", counterexample.trace.len());
        }
    }
}

macro_rules! mutants {
    ($($name:ident: $rules:expr, $shape:expr, $invariant:literal;)*) => {
        $(#[test]
        fn $name() {
            rejected(&$rules, &$shape, $invariant);
        })*
    };
}

mutants! {
    a_partial_write_needs_nothing: planning::PartialWriteNeedsNothing, ONE_DEVICE, "stale read";
    an_update_needs_nothing: planning::UpdateNeedsNothing, ONE_DEVICE, "stale read";
    nothing_is_zeroed: planning::NothingIsZeroed, ONE_DEVICE, "stale read";
    lost_pages_read_as_zero: planning::LostPagesReadAsZero, ONE_DEVICE, "valid is stale";
    a_stale_node_is_copied_from: planning::StaleNodeIsCopiedFrom, ONE_PAGE, "stale read";
    a_write_keeps_the_other_copies: effects::WriteKeepsOtherCopies, ONE_DEVICE, "valid is stale";
    a_copy_counts_at_once: effects::CopyCountsAtOnce, ONE_DEVICE, "valid is stale";
    a_second_read_is_not_kept: effects::SecondReadIsNotKept, ONE_DEVICE, "unordered";
    a_kernels_write_is_forgotten: effects::WriteIsForgotten, ONE_DEVICE, "written is empty";
    a_discard_is_forgotten: effects::DiscardIsForgotten, ONE_PAGE, "valid is stale";
    a_discard_does_not_queue: effects::DiscardDoesNotQueue, ONE_PAGE, "valid is stale";
    writes_do_not_wait_for_reads: waiting::WritesDoNotWaitForReads, ONE_DEVICE, "unordered";
    reads_do_not_wait_for_writes: waiting::ReadsDoNotWaitForWrites, ONE_DEVICE, "unordered";
    writes_do_not_wait_for_writes: waiting::WritesDoNotWaitForWrites, TRANSFER_QUEUE, "unordered";
    the_host_waits_for_nobody: waiting::HostWaitsForNobody, ONE_DEVICE, "unordered";
    foreign_fences_are_ignored: waiting::ForeignFencesAreIgnored, ONE_PAGE, "unordered";
    copies_between_devices_are_followed: waiting::CopiesBetweenDevicesAreFollowed, DIRECT, "stale read";
    a_later_fence_stands_for_an_earlier_one: waiting::LaterFenceStandsForEarlier, THREE, "stale read";
    an_earlier_fence_stands_for_a_later_one: waiting::EarlierFenceStandsForLater, THREE, "unordered";
    work_runs_after_a_failed_wait: waiting::RunsAfterFailedWait, ONE_DEVICE, "stale read";
    failure_is_taken_for_success: settling::FailureIsSuccess, ONE_DEVICE, "failure not reported";
    loss_is_taken_for_success: settling::LossIsSuccess, ONE_DEVICE, "failure not reported";
    failure_is_not_reported: settling::FailureIsNotReported, ONE_DEVICE, "failure not reported";
    a_half_written_copy_is_kept: settling::HalfWrittenIsKept, ONE_DEVICE, "valid is stale";
    a_failure_spoils_every_copy: settling::FailureSpoilsEveryCopy, ONE_DEVICE, "lost for nothing";
    what_never_began_is_torn: settling::NeverBegunIsTorn, ONE_DEVICE, "lost for nothing";
    an_earlier_success_is_forgotten: settling::EarlierSuccessIsForgotten, ONE_DEVICE, "written is empty";
    later_work_is_settled_first: settling::LaterWorkFirst, ONE_PAGE, "valid is stale";
    a_lost_devices_copies_stay: settling::LostCopiesStay, ONE_DEVICE, "valid unbacked";
    a_copy_out_of_a_lost_device_counts: settling::LostSourceCounts, DIRECT, "valid is stale";
    only_settled_copies_are_lost: settling::OnlySettledCopiesAreLost, ONE_PAGE, "valid unbacked";
    an_evicted_copy_still_counts: settling::EvictedCopyCounts, ONE_DEVICE, "valid unbacked";
    the_last_copy_is_evicted: settling::LastCopyIsEvicted, ONE_DEVICE, "written is empty";
    eviction_does_not_wait_for_launches: evicting::WaitsForNobody, ONE_DEVICE, "freed in use";
    eviction_trusts_a_copy_that_is_on_its_way_home: evicting::TrustsWhatIsUnderWay, ONE_DEVICE, "freed in use";
    eviction_takes_the_only_copy: evicting::TakesTheOnlyCopy, ONE_DEVICE, "last copy given up";
    a_shared_host_page_is_not_waited_for: waiting::HostWaitsForNobody, SHARED_HOST, "unordered";
}
