// Refuses requests whose indices would leave their arrays, or whose tokens would write over each other.
#include <stdexcept>
#include <string>

#include "forward.h"

namespace codellama {
namespace {

class Checks {
 public:
  Checks(const char* name, const LlamaModel& model, const KeyValuePools& pools, const ForwardRequest& request)
      : name_(name), model_(model), pools_(pools), request_(request), writer_(pools.pages, -1), first_token_(request.table_rows, -1),
        last_position_(request.table_rows, -1) {}

  void run() {
    for (int64_t token = 0; token < request_.tokens; ++token) check_token(token);
    for (int64_t row = 0; row < request_.table_rows; ++row) check_reading(row);
    int64_t before = -1;
    for (int64_t i = 0; i < request_.wanted; ++i) {
      const int64_t token = request_.wanted_tokens[i];
      require(token >= 0 && token < request_.tokens, "a wanted token", token, "is none of", request_.tokens);
      require(token > before, "wanted token", token, "does not come after", before);
      before = token;
    }
  }

 private:
  void require(bool holds, const char* what, int64_t value, const char* problem, int64_t bound) const {
    if (holds) return;
    const std::string subject = std::string(name_) + ": " + what + " " + std::to_string(value);
    throw std::invalid_argument(subject + " " + problem + " " + std::to_string(bound));
  }

  int32_t page(int64_t row, int64_t index) const { return request_.page_table[row * request_.table_pages + index]; }

  // Id, row, position and the page that is written.
  void check_token(int64_t token) {
    const int64_t row = request_.rows[token], position = request_.positions[token], id = request_.ids[token];
    require(id >= 0 && id < model_.vocabulary, "token id", id, "is not below", model_.vocabulary);
    require(row >= 0 && row < request_.table_rows, "row", row, "is not below", request_.table_rows);
    require(position >= 0 && position < model_.positions, "position", position, "is not below", model_.positions);
    require(position / pools_.page_size < request_.table_pages, "position", position, "lies behind the last page; pages of a row:",
            request_.table_pages);
    const bool is_first = last_position_[row] < 0;
    if (is_first) first_token_[row] = token;
    require(is_first || (request_.rows[token - 1] == row && last_position_[row] + 1 == position), "a token of row", row,
            "does not follow the one before it; position", position);
    last_position_[row] = position;
    const int64_t written = page(row, position / pools_.page_size);
    require(written >= 0 && written < pools_.pages, "page", written, "is not below", pools_.pages);
    require(writer_[written] < 0 || writer_[written] == row, "page", written, "is written by two rows, one of them", row);
    writer_[written] = static_cast<int32_t>(row);
  }

  // Every page up to a row's last new token. A page that another row writes in this pass may be read by rows that come later: what
  // stands before them has been written when they attend.
  void check_reading(int64_t row) const {
    for (int64_t index = 0; index * pools_.page_size <= last_position_[row]; ++index) {
      const int64_t read = page(row, index);
      require(read >= 0 && read < pools_.pages, "page", read, "is not below", pools_.pages);
      const bool is_written_first = writer_[read] < 0 || first_token_[writer_[read]] <= first_token_[row];
      require(is_written_first, "page", read, "is written by a later row than", row);
    }
  }

  const char* name_;
  const LlamaModel& model_;
  const KeyValuePools& pools_;
  const ForwardRequest& request_;
  std::vector<int32_t> writer_;         // [pages], row that writes it, or -1
  std::vector<int64_t> first_token_;    // [rows], or -1
  std::vector<int64_t> last_position_;  // [rows], of the newest token so far, or -1
};

}  // namespace

void check_request(const char* name, const LlamaModel& model, const KeyValuePools& pools, const ForwardRequest& request) {
  Checks(name, model, pools, request).run();
}

}  // namespace codellama
