#include "common/text/added_tokens.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace longhaul::text {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::ranges::stable_sort(tokens_, [](const AddedToken& a, const AddedToken& b) {
    return a.content.size() > b.content.size();
  });
  for (const AddedToken& token : tokens_) {
    by_first_byte_[static_cast<uint8_t>(token.content[0])].push_back(&token);
  }
  if (!tokens_.empty() &&
      by_first_byte_[static_cast<uint8_t>(tokens_[0].content[0])].size() == tokens_.size()) {
    only_first_byte_ = tokens_[0].content[0];
  }
}

std::vector<AddedTokens::Match> AddedTokens::FindAll(std::string_view text,
                                                     std::span<const TextRange> markup) const {
  std::vector<Match> matches;
  auto range = markup.begin();
  for (size_t begin = 0; begin < text.size();) {
    const auto& candidates = by_first_byte_[static_cast<uint8_t>(text[begin])];
    if (candidates.empty()) {
      begin =
          only_first_byte_ ? std::min(text.find(*only_first_byte_, begin), text.size()) : begin + 1;
      continue;
    }
    while (range != markup.end() && range->end <= begin) ++range;
    const bool in_markup = range != markup.end() && range->begin <= begin;
    const auto token = std::ranges::find_if(candidates, [&](const AddedToken* candidate) {
      const size_t end = begin + candidate->content.size();
      return (!candidate->special || (in_markup && end <= range->end)) &&
             text.substr(begin, candidate->content.size()) == candidate->content;
    });
    if (token == candidates.end()) {
      ++begin;
      continue;
    }
    const size_t end = begin + (*token)->content.size();
    matches.push_back({.range = {.begin = begin, .end = end}, .id = (*token)->id});
    begin = end;
  }
  return matches;
}

const AddedToken* AddedTokens::Find(std::string_view content) const {
  const auto token = std::ranges::find(tokens_, content, &AddedToken::content);
  return token == tokens_.end() ? nullptr : &*token;
}

}  // namespace longhaul::text
