#include "router/charge_book.h"

#include <gtest/gtest.h>

namespace longhaul::router {
namespace {

constexpr GroupCharge kCharge = {.requests = 1, .waiting_long = 1, .seconds = 2, .kv_blocks = 10};

ClusterView ViewAt(uint64_t load_sequence, uint64_t incarnation = 1) {
  Group group{.address = "a", .incarnation = incarnation};
  group.load.sequence = load_sequence;
  return ClusterView{{group}};
}

ExecutionKey Key(uint64_t low) { return {.request = {0, low}}; }

TEST(ChargeBook, AChargeStandsUntilALoadAfterAdmission) {
  ChargeBook book;
  book.Charge(Key(1), {"a", 1}, kCharge);
  EXPECT_EQ(book.Apply(ViewAt(5)).groups[0].charge.seconds, 2);
  EXPECT_EQ(book.Apply(ViewAt(9)).groups[0].charge.seconds, 2);  // not admitted yet
  book.Admitted(Key(1), 9);
  EXPECT_EQ(book.Apply(ViewAt(9)).groups[0].charge.requests, 1);
  const GroupCharge after = book.Apply(ViewAt(10)).groups[0].charge;
  EXPECT_EQ(after.requests, 0);
  EXPECT_EQ(after.seconds, 0);
  EXPECT_EQ(after.kv_blocks, 0);
}

TEST(ChargeBook, TheSlotOfALongJobStandsUntilItsPrefillBegins) {
  ChargeBook book;
  book.Charge(Key(1), {"a", 1}, kCharge);
  book.Admitted(Key(1), 1);
  EXPECT_EQ(book.Apply(ViewAt(2)).groups[0].charge.waiting_long, 1);
  book.PrefillBegan(Key(1));
  EXPECT_EQ(book.Apply(ViewAt(2)).groups[0].charge.waiting_long, 0);
}

TEST(ChargeBook, ChargesAddUpAndDropOneByOne) {
  ChargeBook book;
  book.Charge(Key(1), {"a", 1}, kCharge);
  book.Charge(Key(2), {"a", 1}, kCharge);
  EXPECT_EQ(book.Apply(ViewAt(1)).groups[0].charge.kv_blocks, 20);
  book.Drop(Key(1));
  book.Drop(Key(77));  // unknown
  EXPECT_EQ(book.Apply(ViewAt(1)).groups[0].charge.kv_blocks, 10);
}

TEST(ChargeBook, AnotherLifeOfTheGroupOwesNothing) {
  ChargeBook book;
  book.Charge(Key(1), {"a", 1}, kCharge);
  EXPECT_EQ(book.Apply(ViewAt(1, /*incarnation=*/2)).groups[0].charge.requests, 0);
}

// A group that prefills 10 tokens a second and shows `queued_seconds` of work.
ClusterView BusyAt(uint64_t load_sequence, double queued_seconds) {
  ClusterView view = ViewAt(load_sequence);
  view.groups[0].load.cost.b = 0.1;
  view.groups[0].load.queued_seconds = queued_seconds;
  return view;
}

TEST(ChargeBook, CancelledWorkLeavesTheBacklogUntilTheLoadsKnow) {
  ChargeBook book;
  book.Charge(Key(1), {"a", 1}, kCharge);
  book.Admitted(Key(1), 1);
  book.Cancelled(Key(1), BusyAt(5, 9), /*prompt_tokens=*/100, /*processed_tokens=*/20);
  const GroupCharge credit = book.Apply(BusyAt(5, 9)).groups[0].charge;
  EXPECT_NEAR(credit.seconds, -8, 1e-9);
  EXPECT_EQ(credit.requests, 0);
  EXPECT_EQ(book.Apply(BusyAt(6, 3)).groups[0].charge.seconds, -3);  // never below nothing
  EXPECT_EQ(book.Apply(BusyAt(7, 9)).groups[0].charge.seconds, 0);
  EXPECT_EQ(book.Apply(BusyAt(5, 9)).groups[0].charge.seconds, 0);  // dropped for good
}

TEST(ChargeBook, CancelledWorkThatNoLoadShowedLeavesNothing) {
  ChargeBook book;
  book.Charge(Key(1), {"a", 1}, kCharge);
  book.Admitted(Key(1), 5);
  book.Cancelled(Key(1), BusyAt(5, 9), 100, 20);
  EXPECT_EQ(book.Apply(BusyAt(5, 9)).groups[0].charge.seconds, 0);
}

}  // namespace
}  // namespace longhaul::router
