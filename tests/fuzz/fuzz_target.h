#pragma once

#include <cstddef>
#include <cstdint>

// What each *_fuzz.cc defines: takes one input, aborts if a property does not hold for it, returns
// 0. Called by libFuzzer with inputs of its making, and by replay_main.cc with those of a folder.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
