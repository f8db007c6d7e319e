#include "router/rpc/request_parser.h"

#include <google/protobuf/descriptor.h>

#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/text/utf8.h"
#include "longhaul/v1/inference.pb.h"
#include "router/error_detail.h"

namespace longhaul::router::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// The wire types of protobuf's encoding.
enum WireType : uint32_t {
  kVarint = 0,
  kFixed64 = 1,
  kBytes = 2,
  kBeginGroup = 3,
  kEndGroup = 4,
  kFixed32 = 5
};

constexpr int kMaxVarintBytes = 10;
constexpr int kMaxTagBytes = 5;  // and of a length

// Where in the request the walk is: a list from the innermost field outwards, on the stack.
struct Place {
  const Place* outer = nullptr;
  const FieldDescriptor* field = nullptr;  // null: the request itself
  int index = 0;                           // of a repeated field
};

// The messages that only group options: errors call their fields by their own names ("max_tokens"),
// here as in every other check.
bool IsOptionGroup(const Descriptor* type) {
  return type == v1::GenerateOptions::descriptor() || type == v1::Sampling::descriptor() ||
         type == v1::Stopping::descriptor();
}

std::string NameOf(const Place& place) {
  if (place.field == nullptr) return "";
  std::string name = place.outer == nullptr ? "" : NameOf(*place.outer);
  if (place.field->type() == FieldDescriptor::TYPE_MESSAGE &&
      IsOptionGroup(place.field->message_type())) {
    return name;
  }
  absl::StrAppend(&name, name.empty() ? "" : ".", place.field->name());
  if (place.field->is_repeated()) absl::StrAppend(&name, "[", place.index, "]");
  return name;
}

// Walks over the bytes beside the descriptor of what they should be. Accepts what protobuf's parser
// accepts, within the bounds.
class WireWalk {
 public:
  explicit WireWalk(std::string_view bytes) : bytes_(bytes) {}

  absl::Status Message(const Descriptor& type, const Place& place, size_t end, int depth);

 private:
  // Each of these reads at position_, within `end`.
  std::optional<uint64_t> Varint(size_t end, int max_bytes);
  absl::Status Tag(const Place& place, size_t end, uint32_t& tag);
  // The end of the bytes whose length comes next.
  absl::StatusOr<size_t> Length(const Place& place, size_t end);
  // What a field that is not looked into holds.
  absl::Status Skip(uint32_t tag, const Place& place, size_t end, int depth);
  absl::Status Known(uint32_t tag, const Place& place, size_t end, int depth);
  absl::Status PackedList(const Place& place, size_t end);

  absl::Status Malformed(const Place& place, std::string_view what) const;

  const std::string_view bytes_;
  size_t position_ = 0;
  int64_t num_fields_ = 0;
};

absl::Status WireWalk::Malformed(const Place& place, std::string_view what) const {
  const std::string field = NameOf(place);
  return InvalidField(field, absl::StrCat(field.empty() ? "the request" : field,
                                          " is malformed at byte ", position_, " of the request: ",
                                          absl::string_view(what.data(), what.size())));
}

std::optional<uint64_t> WireWalk::Varint(size_t end, int max_bytes) {
  uint64_t value = 0;
  for (int i = 0; i < max_bytes && position_ + static_cast<size_t>(i) < end; ++i) {
    const auto byte = static_cast<uint8_t>(bytes_[position_ + static_cast<size_t>(i)]);
    value |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      position_ += static_cast<size_t>(i) + 1;
      return value;
    }
  }
  return std::nullopt;
}

absl::Status WireWalk::Tag(const Place& place, size_t end, uint32_t& tag) {
  if (++num_fields_ > kMaxRequestFields) {
    return Malformed(place, absl::StrCat("it has more fields than the limit, ", kMaxRequestFields,
                                         " (a packed list counts once)"));
  }
  const std::optional<uint64_t> value = Varint(end, kMaxTagBytes);
  // The fifth byte's upper bits are dropped, as protobuf does.
  if (value) tag = static_cast<uint32_t>(*value);
  if (!value || tag >> 3 == 0) return Malformed(place, "a field's tag is needed here");
  return absl::OkStatus();
}

absl::StatusOr<size_t> WireWalk::Length(const Place& place, size_t end) {
  const std::optional<uint64_t> length = Varint(end, kMaxTagBytes);
  if (!length) return Malformed(place, "a length is needed here");
  if (*length > end - position_) {
    return Malformed(
        place, absl::StrCat("a length is ", *length, ", ", end - position_, " bytes are left"));
  }
  return position_ + static_cast<size_t>(*length);
}

absl::Status WireWalk::Skip(uint32_t tag, const Place& place, size_t end, int depth) {
  switch (tag & 7) {
    case kVarint:
      if (!Varint(end, kMaxVarintBytes)) return Malformed(place, "a number is cut short");
      return absl::OkStatus();
    case kFixed64:
    case kFixed32: {
      const size_t size = (tag & 7) == kFixed64 ? 8 : 4;
      if (end - position_ < size) return Malformed(place, "a number is cut short");
      position_ += size;
      return absl::OkStatus();
    }
    case kBytes: {
      ASSIGN_OR_RETURN(position_, Length(place, end));
      return absl::OkStatus();
    }
    case kBeginGroup: {
      if (depth == 0) {
        return Malformed(place, absl::StrCat("more than ", kMaxMessageDepth, " levels"));
      }
      while (position_ < end) {
        uint32_t inner = 0;
        RETURN_IF_ERROR(Tag(place, end, inner));
        if (inner == ((tag & ~7u) | kEndGroup)) return absl::OkStatus();
        RETURN_IF_ERROR(Skip(inner, place, end, depth - 1));
      }
      return Malformed(place, "a group has no end");
    }
    default:
      return Malformed(place, absl::StrCat("a field has the wire type ", tag & 7));
  }
}

absl::Status WireWalk::PackedList(const Place& place, size_t end) {
  switch (place.field->type()) {
    case FieldDescriptor::TYPE_FIXED32:
    case FieldDescriptor::TYPE_SFIXED32:
    case FieldDescriptor::TYPE_FLOAT:
    case FieldDescriptor::TYPE_FIXED64:
    case FieldDescriptor::TYPE_SFIXED64:
    case FieldDescriptor::TYPE_DOUBLE: {
      const bool wide = place.field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE ||
                        place.field->cpp_type() == FieldDescriptor::CPPTYPE_INT64 ||
                        place.field->cpp_type() == FieldDescriptor::CPPTYPE_UINT64;
      if ((end - position_) % (wide ? 8 : 4) != 0) return Malformed(place, "a number is cut short");
      position_ = end;
      return absl::OkStatus();
    }
    default:
      while (position_ < end) {
        if (!Varint(end, kMaxVarintBytes)) return Malformed(place, "a number is cut short");
      }
      return absl::OkStatus();
  }
}

absl::Status WireWalk::Known(uint32_t tag, const Place& place, size_t end, int depth) {
  if ((tag & 7) != kBytes) return Skip(tag, place, end, depth);
  const FieldDescriptor& field = *place.field;
  const bool is_message = field.type() == FieldDescriptor::TYPE_MESSAGE;
  ASSIGN_OR_RETURN(const size_t field_end, Length(place, end));
  if (is_message) {
    if (depth == 0) {
      return Malformed(place, absl::StrCat("more than ", kMaxMessageDepth, " levels"));
    }
    return Message(*field.message_type(), place, field_end, depth - 1);
  }
  if (field.is_packable()) return PackedList(place, field_end);
  if (field.type() == FieldDescriptor::TYPE_STRING) {
    const size_t bad = text::FindInvalidUtf8(bytes_.substr(position_, field_end - position_));
    if (bad != std::string_view::npos) {
      const std::string name = NameOf(place);
      return InvalidField(name, absl::StrCat(name, " is not valid UTF-8 at byte ", bad));
    }
  }
  position_ = field_end;
  return absl::OkStatus();
}

absl::Status WireWalk::Message(const Descriptor& type, const Place& place, size_t end, int depth) {
  // How often each field came so far.
  std::vector<int> counts(static_cast<size_t>(type.field_count()), 0);
  while (position_ < end) {
    uint32_t tag = 0;
    RETURN_IF_ERROR(Tag(place, end, tag));
    const FieldDescriptor* const field = type.FindFieldByNumber(static_cast<int>(tag >> 3));
    if (field == nullptr) {
      RETURN_IF_ERROR(Skip(tag, place, end, depth));
      continue;
    }
    const int index = counts[static_cast<size_t>(field->index())]++;
    RETURN_IF_ERROR(Known(tag, {.outer = &place, .field = field, .index = index}, end, depth));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseRequest(std::string_view bytes, google::protobuf::Message& request) {
  const Descriptor& type = *request.GetDescriptor();
  // Protobuf's sizes are ints. gRPC's limit of a message lies far below.
  if (bytes.size() > static_cast<size_t>(std::numeric_limits<int>::max())) {
    return InvalidField("", absl::StrCat("the request has ", bytes.size(), " bytes, limit ",
                                         std::numeric_limits<int>::max()));
  }
  // First, because it keeps nothing: what is refused here never becomes objects.
  WireWalk walk(bytes);
  RETURN_IF_ERROR(walk.Message(type, Place{}, bytes.size(), kMaxMessageDepth));
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return InvalidField(
        "", absl::StrCat("the request of ", bytes.size(), " bytes is no ", type.full_name()));
  }
  return absl::OkStatus();
}

}  // namespace longhaul::router::rpc
