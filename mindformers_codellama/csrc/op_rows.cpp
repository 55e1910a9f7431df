// Entry point of exported graphs, which hold a whole model and its cache: rows of tokens in, logits out.
//
//   LlamaRows(keys, values, ids int32 [rows, tokens], lengths int32 [rows], weights...) -> float32 [rows, vocabulary]
//
// Keys and values are pools and the weights those of op_forward.cpp. Ids are right padded; `lengths` counts all tokens of a row, those of
// this call included. One token per row stands at position length - 1; more begin at position 0. Padding is not looked at. Row r has the
// pages [r, r + 1) * pages / rows of the pools.
#include "forward.h"
#include "op.h"
#include "read_model.h"

namespace codellama {
namespace {

// Rows as the tokens of a pass: without their padding, each in pages of its own.
class Rows {
 public:
  Rows(const Arguments& in, int first, int64_t pages) : pages_(static_cast<size_t>(pages)) {
    in.require(in.dims(first) == 2, "ids must be [rows, tokens]");
    rows_ = in.size(first, 0);
    const int64_t width = in.size(first, 1);
    in.require(rows_ > 0 && width > 0 && in.elements(first + 1) == rows_, "there must be ids and one length for every row");
    in.require(pages % rows_ == 0, "the pages cannot be shared out among the rows");
    const int32_t* lengths = in.ints(first + 1);
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t start = width == 1 ? int64_t{lengths[row]} - 1 : 0;
      const bool fits = lengths[row] >= 1 && lengths[row] - start <= width;
      in.require(fits, "row " + std::to_string(row) + " has " + std::to_string(width) + " ids, not the " + std::to_string(lengths[row]) + " of its length");
      add(row, start, lengths[row], in.ints(first) + row * width);
    }
    for (size_t page = 0; page < pages_.size(); ++page) pages_[page] = static_cast<int32_t>(page);
  }

  ForwardRequest request(float* logits) const {
    ForwardRequest request;
    request.tokens = static_cast<int64_t>(ids_.size());
    request.ids = ids_.data();
    request.positions = positions_.data();
    request.rows = places_.data();
    request.wanted = rows_;
    request.wanted_tokens = wanted_.data();
    request.page_table = pages_.data();
    request.table_rows = rows_;
    request.table_pages = static_cast<int64_t>(pages_.size()) / rows_;
    request.logits = logits;
    return request;
  }

 private:
  void add(int64_t row, int64_t start, int64_t end, const int32_t* ids) {
    for (int64_t position = start; position < end; ++position) {
      ids_.push_back(ids[position - start]);
      positions_.push_back(static_cast<int32_t>(position));
      places_.push_back(static_cast<int32_t>(row));
    }
    wanted_.push_back(static_cast<int32_t>(ids_.size() - 1));
  }

  int64_t rows_ = 0;
  std::vector<int32_t> ids_, positions_, places_;
  std::vector<int32_t> wanted_;  // the last token of each row
  std::vector<int32_t> pages_;
};

// One pass at a time takes it.
ForwardMemory& shared_memory() {
  static auto* memory = new ForwardMemory;  // never destroyed: a pass may run while the process ends
  return *memory;
}

}  // namespace
}  // namespace codellama

CODELLAMA_OP(LlamaRows) {
  constexpr int kFirstWeight = 4;
  in.require(in.count() > kFirstWeight + 2, "has too few inputs");
  const codellama::DescribedModel described = codellama::read_model(in, kFirstWeight);
  const codellama::KeyValuePools pools = codellama::read_pools(in, 0, described);
  const codellama::Rows rows(in, 2, pools.pages);
  const int output = in.count() - 1;
  const codellama::ForwardRequest request = rows.request(in.float_output(output));
  in.require(in.elements(output) == request.wanted * described.model.vocabulary, "the output must be [rows, vocabulary]");
  codellama::check_request("LlamaRows", described.model, pools, request);
  codellama::run_forward(described.model, pools, request, codellama::shared_memory());
}
