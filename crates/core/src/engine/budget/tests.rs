use proptest::prelude::*;

use super::*;

fn member(number: u64) -> Arc<Member> {
    Member::of(GroupId::of(number), "some group")
}

/// Without a group.
fn some(bytes: u64) -> ByGroup {
    ByGroup::one(GroupId::DEFAULT, bytes)
}

#[test]
fn takes_all_or_nothing() {
    let budget = Budget::new(10);
    assert!(budget.try_take(&some(10)));
    assert!(!budget.try_take(&some(1)));
    budget.give(GroupId::DEFAULT, 4);
    assert!(!budget.try_take(&some(5)));
    assert!(!budget.try_take(&some(u64::MAX)));
    assert!(budget.try_take(&some(4)));
    assert_eq!(budget.free_bytes(), 0);
}

#[test]
fn a_limit_below_what_is_in_use_gives_nothing_out_until_enough_came_back() {
    let budget = Budget::new(10);
    assert!(budget.try_take(&some(8)));
    assert_eq!(budget.set_limit(5), 10);
    assert_eq!((budget.lack(&some(0)).bytes(), budget.free_bytes()), (3, 0));
    budget.give(GroupId::DEFAULT, 3);
    assert!(!budget.try_take(&some(1)));
    budget.give(GroupId::DEFAULT, 1);
    assert!(budget.try_take(&some(1)));
}

#[test]
fn what_is_reserved_is_nobody_elses_and_the_same_bytes_are_not_kept_twice() {
    let (budget, a) = (Budget::new(10), member(1));
    budget.set_share(&a, Share { reserve_bytes: 4, limit_bytes: 6 });
    assert_eq!((budget.free_bytes(), budget.idle_reserve_bytes()), (6, 4));
    assert!(budget.try_take(&some(6)) && !budget.try_take(&some(1)));
    assert!(budget.try_take(&ByGroup::one(a.id, 4)), "its reserve");
    assert_eq!((budget.idle_reserve_bytes(), budget.used_bytes()), (0, 10));
    budget.give(GroupId::DEFAULT, 6);
    assert!(!budget.try_take(&ByGroup::one(a.id, 3)), "beyond its limit");
    assert!(budget.try_take(&ByGroup::one(a.id, 2)));
    assert_eq!(budget.lack(&ByGroup::one(a.id, 1)).beyond_its_limit(), Some(a.id));
    // All or nothing, also for two.
    let mut both = some(4);
    both.add(a.id, 1);
    assert!(!budget.try_take(&both) && budget.try_take(&some(4)));
    budget.give(a.id, 6);
    budget.forget_group(a.id);
    assert_eq!((budget.free_bytes(), budget.idle_reserve_bytes()), (6, 0));
}

#[test]
fn what_can_never_have_room_is_told_apart() {
    let (budget, a, b) = (Budget::new(10), member(1), member(2));
    budget.set_share(&a, Share { reserve_bytes: 4, limit_bytes: 6 });
    budget.set_share(&b, Share { reserve_bytes: 3, limit_bytes: u64::MAX });
    let never = |asked: &ByGroup| budget.is_too_small_for(asked);
    assert_eq!((never(&some(3)), never(&some(4))), (None, Some(TooSmall::Device)));
    assert_eq!(never(&ByGroup::one(a.id, 6)), None);
    assert_eq!(never(&ByGroup::one(a.id, 7)), Some(TooSmall::Group(a.id)));
    assert_eq!(never(&ByGroup::one(b.id, 6)), None);
    assert_eq!(never(&ByGroup::one(b.id, 7)), Some(TooSmall::Device));
    let room = |asked: &ByGroup, of: &[GroupId]| budget.room_beside(asked, of.iter().copied());
    assert_eq!(room(&some(0), &[GroupId::DEFAULT]), Some(3));
    assert_eq!(room(&some(0), &[a.id]), Some(6), "its own limit");
    assert_eq!(room(&some(0), &[b.id]), Some(6), "what the other has reserved");
    assert_eq!(room(&some(2), &[a.id, b.id]), Some(6));
    assert_eq!(room(&ByGroup::one(a.id, 5), &[a.id]), Some(1));
    assert_eq!(room(&some(4), &[GroupId::DEFAULT]), None);
}

/// What may be done to an account.
#[derive(Clone, Debug)]
enum Step {
    Take([u64; 3]),
    /// So much of what a group has.
    Give(usize, u64),
    Share(usize, u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::array::uniform3(0..9_u64).prop_map(Step::Take),
        (0..3_usize, 0..9_u64).prop_map(|(group, bytes)| Step::Give(group, bytes)),
        (1..3_usize, 0..12_u64, 0..12_u64).prop_map(|(group, a, b)| Step::Share(group, a, b)),
    ]
}

proptest! {
    // The same cases on every machine.
    #![proptest_config(ProptestConfig {
        rng_seed: proptest::test_runner::RngSeed::Fixed(0),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is taken is what a plain sum says can be, and reserves and limits hold.
    #[test]
    fn the_account_is_what_a_plain_sum_says(steps in prop::collection::vec(step(), 1..60)) {
        const LIMIT: u64 = 20;
        let budget = Budget::new(LIMIT);
        let members = [0, 1, 2].map(member);
        let mut used = [0_u64; 3];
        let mut shares = [Share::default(); 3];
        let claimed = |used: &[u64; 3], shares: &[Share; 3]| -> u64 {
            used.iter().zip(shares).map(|(used, share)| *used.max(&share.reserve_bytes)).sum()
        };
        for step in steps {
            match step {
                Step::Take(bytes) => {
                    let mut asked = ByGroup::default();
                    let mut after = used;
                    for (at, bytes) in bytes.into_iter().enumerate().filter(|(_, bytes)| *bytes > 0) {
                        asked.add(members[at].id, bytes);
                        after[at] += bytes;
                    }
                    let within = after.iter().zip(&shares).all(|(used, share)| *used <= share.limit_bytes);
                    let fits = within && claimed(&after, &shares) <= LIMIT;
                    prop_assert_eq!(budget.lack(&asked).is_met(), fits);
                    prop_assert_eq!(budget.try_take(&asked), fits);
                    used = if fits { after } else { used };
                }
                Step::Give(at, bytes) => {
                    let bytes = bytes.min(used[at]);
                    used[at] -= bytes;
                    budget.give(members[at].id, bytes);
                }
                Step::Share(at, a, b) => {
                    let share = Share { reserve_bytes: a.min(b), limit_bytes: a.max(b) };
                    let mut after = shares;
                    after[at] = share;
                    // As the engine sets one: only what is there at once, here where nothing can leave.
                    if used[at] <= share.limit_bytes && claimed(&used, &after) <= LIMIT {
                        shares = after;
                        budget.set_share(&members[at], share);
                    }
                }
            }
            prop_assert_eq!(budget.used_bytes(), used.iter().sum::<u64>());
            prop_assert_eq!(budget.used_bytes() + budget.idle_reserve_bytes(), claimed(&used, &shares));
            prop_assert_eq!(budget.free_bytes(), LIMIT - claimed(&used, &shares));
            for (member, used) in members.iter().zip(used).skip(1) {
                prop_assert_eq!(budget.group_used_bytes(member.id), used);
            }
        }
    }
}
