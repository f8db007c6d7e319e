#include "common/prefix_hash.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

namespace longhaul {
namespace {

std::string Counting(int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i) bytes.push_back(static_cast<char>(i));
  return bytes;
}

std::vector<TokenId> Tokens(size_t count, TokenId first = 0) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

const PrefixIdentity kIdentity = {.model = {1, 2},
                                  .kv_dtype = "fp32",
                                  .attention_mode = "dca",
                                  .attention_settings = {3, 4},
                                  .temperature = "position"};

// Written down when version 1 of the identities was made: caches and clusters compare them.
TEST(PrefixHash, IdentitiesDoNotChangeFromReleaseToRelease) {
  const Digest root = PrefixRoot(kIdentity);
  EXPECT_EQ(root.ToString(), "6195b70fa18e46d2fab53caf51b4e2d3");
  EXPECT_EQ(SaltPrefix(root, Counting(16)).ToString(), "54c4e858b9704fcac0e95557f304ff10");
  EXPECT_EQ(LengthPrefix(root, 1.25f).ToString(), "10483f4029b59f02ae0b227f75eff94c");
  const std::vector<Digest> chain = PrefixChain(root, Tokens(512));
  EXPECT_EQ(chain[0].ToString(), "1559c0b0310805671cd8ca7b8ac0377f");
  EXPECT_EQ(chain[1].ToString(), "7fc7128ec16b54fc1853fd6b60ba3e4d");
}

TEST(PrefixHash, CoversCompleteBlocksOnly) {
  const Digest root = PrefixRoot(kIdentity);
  EXPECT_EQ(PrefixChain(root, Tokens(0)).size(), 0u);
  EXPECT_EQ(PrefixChain(root, Tokens(255)).size(), 0u);
  EXPECT_EQ(PrefixChain(root, Tokens(256)).size(), 1u);
  EXPECT_EQ(PrefixChain(root, Tokens(257)).size(), 1u);
  EXPECT_EQ(PrefixChain(root, Tokens(512)).size(), 2u);
}

TEST(PrefixHash, APrefixOfTheTokensHasAPrefixOfTheChain) {
  const Digest root = PrefixRoot(kIdentity);
  const std::vector<Digest> whole = PrefixChain(root, Tokens(1024));
  const std::vector<Digest> half = PrefixChain(root, Tokens(512));
  EXPECT_EQ(std::vector<Digest>(whole.begin(), whole.begin() + 2), half);
}

TEST(PrefixHash, OneTokenChangesItsBlockAndAllAfter) {
  const Digest root = PrefixRoot(kIdentity);
  std::vector<TokenId> tokens = Tokens(1024);
  const std::vector<Digest> before = PrefixChain(root, tokens);
  tokens[300] ^= 1;
  const std::vector<Digest> after = PrefixChain(root, tokens);
  EXPECT_EQ(before[0], after[0]);
  for (int i = 1; i < 4; ++i) EXPECT_NE(before[i], after[i]) << "block " << i;
}

TEST(PrefixHash, EqualBlocksAtDifferentPlacesDiffer) {
  std::vector<TokenId> tokens(512, 7);
  const std::vector<Digest> chain = PrefixChain(PrefixRoot(kIdentity), tokens);
  EXPECT_NE(chain[0], chain[1]);
}

TEST(PrefixHash, EveryPartOfTheIdentityEntersTheRoot) {
  std::set<std::string> roots;
  auto add = [&roots](auto change) {
    PrefixIdentity identity = kIdentity;
    change(identity);
    roots.insert(PrefixRoot(identity).ToString());
  };
  add([](PrefixIdentity&) {});
  add([](PrefixIdentity& p) { p.model.low ^= 1; });
  add([](PrefixIdentity& p) { p.kv_dtype = "bf16"; });
  add([](PrefixIdentity& p) { p.attention_mode = "rope"; });
  add([](PrefixIdentity& p) { p.attention_settings.high ^= 1; });
  add([](PrefixIdentity& p) { p.temperature = "request"; });
  // Moving a letter over a border of fields is another identity.
  add([](PrefixIdentity& p) { p.kv_dtype = "fp32d", p.attention_mode = "ca"; });
  EXPECT_EQ(roots.size(), 7u);
}

TEST(PrefixHash, SaltAndLengthSeparate) {
  const Digest root = PrefixRoot(kIdentity);
  EXPECT_EQ(SaltPrefix(root, ""), root);
  const Digest one = SaltPrefix(root, Counting(16));
  const Digest other = SaltPrefix(root, std::string(16, 'x'));
  EXPECT_NE(one, root);
  EXPECT_NE(one, other);
  EXPECT_NE(LengthPrefix(root, 1.0f), LengthPrefix(root, 1.25f));
  EXPECT_NE(LengthPrefix(root, 1.0f), root);
}

}  // namespace
}  // namespace longhaul
