#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace longhaul::fuzz {

// The letter that byte-level tokenizer files write for a byte, as GPT-2's encoder chose it.
inline std::string ByteLetter(int byte) {
  const auto is_itself = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  int code_point = byte;
  if (!is_itself(byte)) {
    code_point = 256;
    for (int b = 0; b < byte; ++b) code_point += is_itself(b) ? 0 : 1;
  }
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

// A tokenizer.json of Qwen2.5's kind with the 256 bytes and no merge: what a fuzzer's input,
// applied as a JSON merge patch, makes another one of.
inline nlohmann::json ByteTokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[ByteLetter(byte)] = byte;
  nlohmann::json file = nlohmann::json::parse(R"json({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": ""}},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null,
              "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
              "byte_fallback": false, "ignore_merges": false, "vocab": {}, "merges": []}})json");
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
      R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
  file["model"]["vocab"] = std::move(vocab);
  return file;
}

// The same with a few merges and Qwen2.5's special tokens, for targets whose subject is another.
inline std::string SmallTokenizerJson() {
  nlohmann::json file = ByteTokenizerJson();
  int id = 256;
  const char* const merges[][2] = {{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {"Ġ", "w"},
                                   {"Ã", "¼"}, {"ð", "Ł"}, {"ðŁ", "ĺ"},  {"Ċ", "Ċ"}};
  for (const auto& [left, right] : merges) {
    file["model"]["vocab"][std::string(left) + right] = id++;
    file["model"]["merges"].push_back({left, right});
  }
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    file["added_tokens"].push_back({{"id", id++},
                                    {"content", special},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
  }
  file["added_tokens"].push_back({{"id", id++},
                                  {"content", "<tool_call>"},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", false},
                                  {"special", false}});
  return file.dump();
}

}  // namespace longhaul::fuzz
