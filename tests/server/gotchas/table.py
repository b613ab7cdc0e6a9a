"""Each gotcha of the etcd API, in a sentence, with the tests that prove it.

``waits_for`` names what a gotcha still needs: ``cluster`` (more than one member), ``auth``, or
``recipes`` (a primitive that the SDK does not have yet). The tests beside it then prove the part that a
single server or the store's semantics can prove now; docs/compatibility.md lists these gotchas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

COUNT = 125

_HERE = "tests/server/gotchas/"
READS, WRITES, WATCH = _HERE + "test_reads.py", _HERE + "test_writes.py", _HERE + "test_watch.py"
LEASE, CLIENT, RECIPES = (_HERE + f"test_{name}.py" for name in ("lease", "client", "recipes"))
STREAM = "tests/server/watch/test_watch_service.py"
HUB = "tests/server/watch/test_hub.py"
RENEWALS = "tests/server/lease/test_lease_service.py"
LESSOR = "tests/server/lease/test_lessor.py"
LOCK = "tests/server/test_lock_service.py"
ELECTION = "tests/server/test_election_service.py"
REPLICA = "tests/server/test_replica.py"
SDK = "tests/sdk/"

Missing = Literal["cluster", "auth", "recipes"]


@dataclass(frozen=True, slots=True)
class Gotcha:
    """One row: what must be so, and the node ids of the tests that say so."""

    statement: str
    tests: tuple[str, ...]
    waits_for: Missing | None = None


def row(statement: str, *tests: str, waits_for: Missing | None = None) -> Gotcha:
    return Gotcha(statement, tests, waits_for)


GOTCHAS: dict[int, Gotcha] = {
    # Reads
    1: row(
        "A store without history is at revision 1, and its first put makes 2.",
        f"{READS}::test_g001_a_fresh_store_has_revision_1",
    ),
    2: row(
        "Revision 1 can be read and holds nothing.",
        f"{READS}::test_g002_revision_1_is_a_time_before_the_first_key",
    ),
    3: row(
        "A negative revision means the latest in a Range and the compacted past in a transaction.",
        f"{READS}::test_g003_negative_revisions_mean_latest_but_not_in_a_txn",
    ),
    4: row(
        "A read of the past tells the present revision in its header.",
        f"{READS}::test_g004_a_read_of_the_past_tells_the_present_revision",
    ),
    5: row(
        "The header of a read is the revision of the very state that was read.",
        f"{READS}::test_g005_the_header_is_that_of_the_state_that_was_read",
    ),
    6: row(
        "More is told only when pairs are left; the count is of all.",
        f"{READS}::test_g006_more_is_only_told_of_what_is_left",
    ),
    7: row(
        "Counting ignores the limit and returns no pairs.",
        f"{READS}::test_g007_count_only_counts_everything",
    ),
    8: row(
        "Asked for keys only and for the count only, a Range counts.",
        f"{READS}::test_g008_count_only_beats_keys_only",
    ),
    9: row(
        "Keys only, sorted by value: the sort sees the values that the answer leaves out.",
        f"{READS}::test_g009_keys_only_sorts_by_the_values_it_strips",
    ),
    10: row(
        "A limit of zero or less is none.", f"{READS}::test_g010_no_positive_limit_is_no_limit"
    ),
    11: row(
        "Bounds on revisions do not lower the count.",
        f"{READS}::test_g011_filters_leave_the_count_alone",
    ),
    12: row(
        "With bounds, more is about the pairs that are within them.",
        f"{READS}::test_g012_more_counts_what_the_filters_left",
    ),
    13: row(
        "A sort target without an order ascends, after the limit has cut by key.",
        f"{READS}::test_g013_a_target_without_an_order_sorts_what_the_limit_left",
    ),
    14: row(
        "Keys are ordered as unsigned bytes.",
        f"{READS}::test_g014_keys_are_ordered_by_unsigned_bytes",
    ),
    15: row(
        "A range that ends where it begins, or before, is empty and no error.",
        f"{READS}::test_g015_ranges_that_hold_nothing_are_empty",
    ),
    16: row(
        "The zero byte without an end is one key.",
        f"{READS}::test_g016_a_zero_byte_alone_is_a_key",
    ),
    17: row(
        "An empty key is refused even when the end means everything.",
        f"{READS}::test_g017_an_empty_key_is_refused_whatever_the_end",
    ),
    18: row(
        "Without a quorum a serializable read is answered and a linearizable one times out.",
        f"{REPLICA}::test_reads_that_cannot_be_served_time_out_or_are_refused_at_stop",
        waits_for="cluster",
    ),
    19: row(
        "The compact revision can be read, the one before it cannot.",
        f"{READS}::test_g019_the_compact_revision_can_still_be_read",
    ),
    20: row(
        "A compaction at the present revision takes no live key.",
        f"{READS}::test_g020_compacting_the_present_keeps_all_keys",
    ),
    # Writes and transactions
    21: row(
        "Asked for the previous pair, the first put of a key has none to tell.",
        f"{WRITES}::test_g021_the_first_put_has_no_previous_pair",
    ),
    22: row(
        "Keeping the value and naming no lease detaches the key.",
        f"{WRITES}::test_g022_ignore_value_without_a_lease_detaches",
    ),
    23: row(
        "Keeping the value and naming a lease attaches the key.",
        f"{WRITES}::test_g023_ignore_value_with_a_lease_attaches",
    ),
    24: row(
        "A put that keeps something does not tell the previous pair unless asked.",
        f"{WRITES}::test_g024_ignoring_does_not_mean_asking",
    ),
    25: row(
        "A put that keeps both only raises version and revision.",
        f"{WRITES}::test_g025_both_flags_only_count_the_version_up",
    ),
    26: row(
        "A put with an unknown lease writes nothing, alone or in a transaction.",
        f"{WRITES}::test_g026_an_unknown_lease_leaves_nothing",
    ),
    27: row(
        "An unknown lease in the branch that is not taken does no harm.",
        f"{WRITES}::test_g027_an_unknown_lease_in_the_other_branch_is_nobodys_business",
    ),
    28: row(
        "A read of an impossible revision rejects a transaction only in the taken branch, and then all of it.",
        f"{WRITES}::test_g028_only_the_taken_branch_must_read_what_exists",
    ),
    29: row(
        "Shape is checked in both branches.",
        f"{WRITES}::test_g029_both_branches_must_have_a_right_shape",
    ),
    30: row(
        "Deleting nothing succeeds and makes no revision.",
        f"{WRITES}::test_g030_deleting_nothing_changes_nothing",
    ),
    31: row(
        "A delete of many keys is one revision with an event for each.",
        f"{WRITES}::test_g031_one_delete_is_one_revision",
    ),
    32: row(
        "A DELETE event has a key and a revision and nothing else.",
        f"{WRITES}::test_g032_deletions_carry_key_and_revision_only",
    ),
    33: row(
        "A key that is put again after its deletion starts at version 1.",
        f"{WRITES}::test_g033_a_key_that_comes_again_is_new",
    ),
    34: row(
        "A missing key compares as zeros; no comparison of its value holds.",
        f"{WRITES}::test_g034_a_missing_key_is_all_zeros_and_has_no_value",
    ),
    35: row(
        "A comparison over a range must hold for each key; over none it is that of a missing key.",
        f"{WRITES}::test_g035_over_a_range_every_key_must_match",
    ),
    36: row(
        "create < N over a prefix says that no key is newer, and holds for none.",
        f"{WRITES}::test_g036_no_key_is_newer_than",
    ),
    37: row(
        "Nested comparisons see the state before the whole transaction.",
        f"{WRITES}::test_g037_nested_compares_look_at_the_state_before",
    ),
    38: row(
        "Parts of a transaction's answer have a revision alone in their header, nested ones an empty header.",
        f"{WRITES}::test_g038_parts_have_only_a_revision_in_their_header",
    ),
    39: row(
        "A read within a transaction tells the new revision once something was written before it.",
        f"{WRITES}::test_g039_a_read_in_a_txn_tells_the_revision_so_far",
    ),
    40: row(
        "128 operations pass and 129 do not, in each list by itself.",
        f"{WRITES}::test_g040_each_list_may_have_128",
        f"{WRITES}::test_g040_nested_txns_get_what_their_parent_leaves",
    ),
    41: row(
        "A transaction without operations is answered at once from this member's state.",
        f"{WRITES}::test_g041_txns_without_operations_are_answered_at_once",
        "tests/server/mvcc/test_txn.py::test_gotcha_41_and_42_what_counts_as_read_only",
    ),
    42: row(
        "A nested transaction makes a write of the whole, even if all only read.",
        f"{WRITES}::test_g042_a_nested_txn_is_always_a_write",
    ),
    43: row(
        "Go's client does not repeat a transaction that only reads; it is safe, and ours does.",
        f"{CLIENT}::test_g043_our_client_repeats_a_txn_that_only_reads",
    ),
    44: row(
        "Overlapping deletes pass, overlapping puts do not, with etcd's asymmetries.",
        f"{WRITES}::test_g044_which_double_changes_are_seen",
    ),
    45: row(
        "1.5 MiB is refused by the store, 2 MiB by the transport.",
        f"{WRITES}::test_g045_two_limits_of_size",
    ),
    46: row(
        "Answers exceed 4 MiB, and a client must be willing to take them.",
        f"{WRITES}::test_g046_answers_may_be_larger_than_a_client_expects",
    ),
    47: row(
        "Without space only what grows is refused.",
        f"{WRITES}::test_g047_without_space_only_growth_is_refused",
        f"{WRITES}::test_g047_a_txn_that_puts_nothing_needs_no_space",
    ),
    48: row(
        "The alarm about space stays until it is disarmed.",
        f"{WRITES}::test_g048_the_alarm_stays_until_it_is_disarmed",
    ),
    49: row(
        "A second compaction at the same revision is refused as compacted.",
        f"{WRITES}::test_g049_the_second_compaction_at_a_revision_fails",
    ),
    50: row(
        "A compaction changes no revision and makes no event.",
        f"{WRITES}::test_g050_compacting_is_no_change",
    ),
    # Watch
    51: row(
        "The creation is answered before any event, replayed ones included.",
        f"{WATCH}::test_g051_created_precedes_history",
        f"{STREAM}::test_created_comes_first_even_with_history",
    ),
    52: row(
        "The first id of each stream is 0, and 0 is an id.",
        f"{WATCH}::test_g052_the_first_id_of_every_stream_is_0",
    ),
    53: row(
        "A refused creation has the id -1 and leaves watcher 0 alone.",
        f"{WATCH}::test_g053_a_refused_create_names_nobody",
        f"{STREAM}::test_ids",
    ),
    54: row(
        "A refusal is about one watcher; its stream lives on. (Refusals for lack of rights come with auth.)",
        f"{WATCH}::test_g054_a_stream_survives_every_refusal",
        waits_for="auth",
    ),
    55: row(
        "Cancelling an unknown id is answered by nothing.",
        f"{WATCH}::test_g055_nobody_answers_for_an_unknown_id",
    ),
    56: row(
        "After the answer to a cancellation no event of that id comes, live or replayed.",
        f"{WATCH}::test_g056_nothing_follows_a_cancellation",
        f"{STREAM}::test_cancel_is_answered_once_and_final",
    ),
    57: row(
        "A watch below the compaction is created, then ended with the compact revision, header revision 0 and no reason.",
        f"{WATCH}::test_g057_compaction_ends_a_watcher_that_was_created",
    ),
    58: row(
        "A watch from the compact revision itself sees that revision, deletions included.",
        f"{WATCH}::test_g058_a_tombstone_at_the_compact_revision_is_kept",
        f"{WATCH}::test_g058_watching_at_the_compact_revision",
    ),
    59: row(
        "The next revision is now; a later one is silent until it comes, and holds up progress on demand.",
        f"{WATCH}::test_g059_one_past_the_present_is_now",
        f"{WATCH}::test_g059_the_far_future_is_silent_and_blocks_progress",
    ),
    60: row(
        "A watch from now never tells the revision that its creation told.",
        f"{WATCH}::test_g060_a_new_watch_never_tells_the_present",
    ),
    61: row("A put of nothing is a put.", f"{STREAM}::test_empty_values_are_puts"),
    62: row(
        "The end of a lease is one response for each watcher, with the keys in order.",
        f"{WATCH}::test_g062_expiry_is_one_response_in_the_order_of_keys",
        f"{STREAM}::test_lease_events_are_deletes_in_key_order",
    ),
    63: row(
        "Events of a transaction come in the order of its operations, together.",
        f"{WATCH}::test_g063_events_of_a_txn_come_in_its_order",
    ),
    64: row(
        "History comes in batches of at most 1000 revisions, each under the present revision.",
        f"{WATCH}::test_g064_history_comes_in_batches_with_the_present_revision",
        f"{STREAM}::test_history_comes_in_batches",
    ),
    65: row(
        "What the filters leave nothing of makes no response.",
        f"{WATCH}::test_g065_what_is_filtered_out_makes_no_response",
        f"{STREAM}::test_filters",
    ),
    66: row(
        "A creation has no previous pair, nor has an event whose pair is compacted.",
        f"{WATCH}::test_g066_a_previous_pair_may_be_compacted",
        f"{STREAM}::test_previous_pairs",
    ),
    67: row(
        "Watchers with and without previous pairs do not disturb each other.",
        f"{STREAM}::test_previous_pairs",
    ),
    68: row(
        "The tick after an event is skipped, the following one is not.",
        f"{STREAM}::test_periodic_progress_skips_the_tick_after_an_event",
    ),
    69: row(
        "While one watcher lags, progress on demand is not answered, not even later.",
        f"{WATCH}::test_g069_nobody_answers_for_progress_while_one_lags",
    ),
    70: row(
        "Progress on demand has the id -1 and is for all watchers of the stream.",
        f"{WATCH}::test_g070_one_answer_is_for_all_watchers",
    ),
    71: row(
        "Progress may come before any event, but not before the start revision has come.",
        f"{WATCH}::test_g071_progress_needs_no_event_but_a_start_that_has_come",
        f"{WATCH}::test_g071_even_the_next_revision_has_to_come_first",
    ),
    72: row(
        "All fragments but the last are marked; they are cut within revisions too.",
        f"{WATCH}::test_g072_fragments_are_cut_between_any_events",
        f"{STREAM}::test_large_responses_are_fragmented_on_request",
    ),
    73: row(
        "A stream whose client sends no more goes on.",
        f"{WATCH}::test_g073_half_closing_ends_nothing",
    ),
    74: row(
        "Without a leader plain streams stay open and those that require one end.",
        f"{STREAM}::test_a_stream_without_leader_is_refused",
        waits_for="cluster",
    ),
    75: row(
        "A slow reader loses nothing, or is told that a compaction took it.",
        f"{WATCH}::test_g075_a_reader_that_lags_behind_a_compaction_is_told",
        f"{STREAM}::test_a_slow_reader_loses_nothing",
        f"{HUB}::test_what_lags_behind_a_compaction_is_told",
    ),
    76: row(
        "A client's watch begins once: entering it is the notification, and reconnecting repeats nothing.",
        f"{SDK}test_watch.py::test_sees_what_happens_after_it_was_entered",
        f"{SDK}test_failures.py::test_a_watch_goes_on_over_cut_connections",
    ),
    77: row(
        "Resuming after an event or a progress notification doubles nothing.",
        f"{WATCH}::test_g077_resuming_after_the_last_event_doubles_nothing",
        f"{WATCH}::test_g077_progress_is_a_place_to_resume_from",
        f"{SDK}test_failures.py::test_a_watch_goes_on_over_cut_connections",
    ),
    78: row(
        "An empty key with the end of everything is the same watch as the zero byte with it.",
        f"{WATCH}::test_g078_two_names_of_the_whole_key_space",
    ),
    79: row("The right to watch is that to the range as it was asked for.", waits_for="auth"),
    # Leases
    80: row(
        "A TTL below two seconds is granted as two.",
        f"{LEASE}::test_g080_short_ttls_are_raised_to_two_seconds",
    ),
    81: row(
        "Any id but 0 is one, and its keys survive a restart and go with it.",
        f"{LEASE}::test_g081_any_id_works_and_survives_a_restart",
    ),
    82: row(
        "Renewal, question and revocation tell a missing lease in three ways.",
        f"{LEASE}::test_g082_three_signals_for_a_missing_lease",
    ),
    83: row(
        "A missing lease does not disturb the others on its stream.",
        f"{LEASE}::test_g083_a_missing_lease_does_not_disturb_the_others",
        f"{RENEWALS}::test_many_renewals_on_one_stream",
    ),
    84: row(
        "A renewal right after the grant, through another member, finds the lease.",
        f"{LEASE}::test_g084_a_renewal_right_after_the_grant",
        waits_for="cluster",
    ),
    85: row(
        "A key belongs to the lease of its last put, also after a restart.",
        f"{LEASE}::test_g085_a_key_belongs_to_its_last_lease",
    ),
    86: row(
        "A put without a lease frees the key for good.",
        f"{LEASE}::test_g086_a_put_without_a_lease_detaches",
    ),
    87: row(
        "Revoking a lease without keys makes no revision.",
        f"{LEASE}::test_g087_revoking_without_keys_changes_no_revision",
    ),
    88: row(
        "A new leader gives every lease its full time and an election timeout.",
        f"{LEASE}::test_g088_a_new_leader_gives_the_full_time",
        f"{LESSOR}::test_promotion_gives_the_full_time_and_an_extension",
        waits_for="cluster",
    ),
    89: row(
        "The time left can exceed the TTL after an election and fall to zero before the deletion.",
        f"{LEASE}::test_g089_time_left_can_exceed_the_ttl_and_fall_to_zero",
        waits_for="cluster",
    ),
    90: row(
        "A follower may list a lease a moment after its grant.",
        f"{RENEWALS}::test_leases_are_listed_by_remaining_time",
        waits_for="cluster",
    ),
    91: row(
        "Granting an id that exists is refused, which tests for existence.",
        f"{LEASE}::test_g091_granting_tests_for_existence",
    ),
    92: row(
        "A renewal of a lease that is due waits for its deletion.",
        f"{RENEWALS}::test_the_answer_for_an_expired_lease_waits_for_its_end",
    ),
    93: row(
        "A client renews every third of the TTL, whoever listens.",
        f"{SDK}test_session.py::test_renewals_go_out_every_third_of_the_ttl",
        f"{SDK}test_session_rules.py::test_renewals_come_every_third_of_the_ttl_jittered",
    ),
    94: row("Lease 0 does not exist.", f"{LEASE}::test_g094_there_is_no_lease_0"),
    # Clients
    95: row(
        "One of two renewers of a lease may go.",
        f"{LEASE}::test_g095_one_renewer_may_go_and_the_other_stay",
        f"{SDK}test_session.py::test_many_sessions_share_few_streams",
    ),
    96: row(
        "A client that hears nothing gives its lease up in time.",
        f"{SDK}test_session_rules.py::test_silence_suspends_then_expires_and_is_hedged_against",
        f"{SDK}test_session.py::test_a_stall_that_lasts_expires",
    ),
    97: row("Calls of a closed client fail at once.", f"{SDK}test_places.py::test_use_after_close"),
    98: row(
        "A put whose connection is lost is applied once at most.",
        f"{SDK}test_failures.py::test_a_write_whose_answer_is_cut_off_is_ambiguous",
        f"{SDK}test_caller.py::test_a_write_in_doubt_is_sent_once",
    ),
    99: row(
        "A client leaves a learner for another endpoint.",
        f"{SDK}test_caller.py::test_useless_endpoints_are_reported",
        waits_for="cluster",
    ),
    # Recipes
    100: row(
        "A session that locks twice has one key, and one unlock frees it.",
        f"{RECIPES}::test_g100_a_session_locks_twice_and_unlocks_once",
        f"{LOCK}::test_the_same_lease_locks_again",
    ),
    101: row(
        "A waiter whose predecessor dies waits on for the owner.",
        f"{LOCK}::test_a_waiter_outlives_the_one_before_it",
    ),
    102: row(
        "A waiter whose lease is gone never owns.",
        f"{RECIPES}::test_g102_a_waiter_without_a_session_never_owns",
        f"{LOCK}::test_a_waiter_whose_lease_ends_never_owns",
    ),
    103: row(
        "A waiter that gives up takes its key along.",
        f"{LOCK}::test_a_cancelled_waiter_leaves_no_key",
    ),
    104: row(
        "Names that only begin alike do not meet.",
        f"{RECIPES}::test_g104_neighbours_of_a_name_do_not_matter",
        f"{SDK}test_mutex.py::test_names_next_to_each_other_do_not_interfere",
    ),
    105: row(
        "Campaigning again with another value proclaims it.",
        f"{RECIPES}::test_g105_campaigning_again_proclaims",
    ),
    106: row(
        "A new process with the old lease keeps the leadership.",
        f"{ELECTION}::test_campaigning_again_proclaims",
    ),
    107: row(
        "An observer that comes after a compaction still hears of the leader.",
        f"{ELECTION}::test_observe",
    ),
    108: row(
        "What an observer hears never goes back.",
        f"{ELECTION}::test_observe",
        f"{ELECTION}::test_an_observer_that_falls_behind_sees_the_newest",
    ),
    109: row(
        "A resignation of somebody who does not lead does nothing, successfully.",
        f"{RECIPES}::test_g109_a_stale_resignation_does_nothing",
    ),
    110: row(
        "A barrier is held once, and is one key.",
        f"{RECIPES}::test_g110_a_barrier_is_one_key",
        waits_for="recipes",
    ),
    111: row(
        "One too many at a double barrier learns it and leaves nothing.",
        f"{RECIPES}::test_g111_the_surplus_client_sees_that_it_is_one",
        waits_for="recipes",
    ),
    112: row(
        "The end of a participant's lease lets the others leave a double barrier.",
        f"{RECIPES}::test_g112_the_lease_of_a_waiter_ends_its_part_in_leaving",
        waits_for="recipes",
    ),
    113: row(
        "A priority queue is served by priority, then by sequence.",
        f"{RECIPES}::test_g113_equal_priorities_are_served_by_sequence",
        f"{RECIPES}::test_g113_two_that_enqueue_at_once_do_not_get_one_sequence",
        waits_for="recipes",
    ),
    114: row(
        "A queue scans its bare name, and so sees the items of longer names.",
        f"{RECIPES}::test_g114_a_queue_sees_the_items_of_a_longer_name",
        waits_for="recipes",
    ),
    115: row(
        "A deletion of a key that was read is a conflict.",
        f"{RECIPES}::test_g115_a_deletion_of_what_was_read_is_a_conflict",
        waits_for="recipes",
    ),
    116: row(
        "A blind second write after a commit succeeds.",
        f"{RECIPES}::test_g116_a_blind_write_after_a_commit_succeeds",
        waits_for="recipes",
    ),
    117: row("An aborted software transaction writes nothing.", waits_for="recipes"),
    118: row("A namespace clips the end of everything to itself.", waits_for="recipes"),
    119: row(
        "Endpoints that are changed together arrive together.",
        f"{RECIPES}::test_g119_one_update_of_endpoints_is_one_batch",
        waits_for="recipes",
    ),
    120: row(
        "A command under a lock is told its key; with etcdctl an inherited variable wins, with coord the lock's.",
        f"{CLIENT}::test_g120_who_wins_an_inherited_variable",
        "tests/cli/test_lock.py::test_command_sees_key_revision_and_token",
    ),
    121: row(
        "Refusals are worded exactly as etcd words them.",
        f"{CLIENT}::test_g121_refusals_are_worded_exactly",
        f"{CLIENT}::test_g121_a_lease_that_is_there_is_worded_exactly",
        "tests/compat/test_differential.py::test_generated_scripts",
    ),
    122: row(
        "Go's client repeats writes that a server ended with DEADLINE_EXCEEDED or CANCELLED; ours reports them as in doubt, and our server says UNAVAILABLE.",
        f"{REPLICA}::test_proposals_that_never_commit_time_out",
        f"{SDK}test_caller.py::test_a_write_in_doubt_is_sent_once",
    ),
    123: row(
        "Too many requests arrives with the code UNKNOWN.",
        f"{CLIENT}::test_g123_too_many_requests_has_no_code",
    ),
    124: row(
        "The Lock and Election services fail with the code UNKNOWN and the words.",
        f"{CLIENT}::test_g124_services_answer_failures_without_a_code",
        f"{ELECTION}::test_refusals",
    ),
    125: row(
        "The order of events within a revision is that of the changes, live and replayed.",
        f"{CLIENT}::test_g125_the_order_of_events_is_the_order_of_changes",
        f"{LESSOR}::test_revoking_gives_the_keys_in_order",
    ),
}
