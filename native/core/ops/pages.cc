// States the rules of the ops over pages.
#include "core/ops/pages.h"

#include <limits>

#include "core/ops/rules.h"

namespace lora {
namespace {

using check::Rules;

void CheckPool(const Rules& rules, const char* name, const TensorView& pool, int64_t heads,
               int64_t d) {
  rules.Rank(name, pool, 4, "(pages, kv_heads, 64, head_dim)");
  rules.ShapeIs(name, pool, {pool.dim(0), heads, kPageSize, d}, "(pages, kv_heads, 64, head_dim)");
}

void CheckTable(const Rules& rules, const TensorView& page_table, const TensorView& lengths,
                int64_t batch) {
  rules.Int32("pageTable", page_table);
  rules.Rank("pageTable", page_table, 2, "(batch, pages)");
  rules.ShapeIs("pageTable", page_table, {batch, page_table.dim(1)}, "(batch, pages)");
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max() / kPageSize;
  LORA_CHECK(page_table.dim(1) <= kMax, rules.op(), "expected pageTable of at most ", kMax,
             " columns but received shape ", page_table.shape);
  rules.Int32("lengths", lengths);
  rules.ShapeIs("lengths", lengths, {batch}, "(batch)");
}

}  // namespace

void Check(const PageAppendArgs& args) {
  const Rules rules(LabelOf(args));
  rules.InferenceAct("q", args.q);
  rules.Rank("q", args.q, 4, "(batch, sequence, heads, head_dim)");
  const int64_t batch = args.q.dim(0), d = args.q.dim(3);
  rules.Rank("k", args.k, 4, "(batch, sequence, kv_heads, head_dim)");
  rules.SameType("k", args.k, "q", args.q.dtype);
  rules.ShapeIs("k", args.k, {batch, args.q.dim(1), args.k.dim(2), d},
                "(batch, sequence, kv_heads, head_dim)");
  rules.Like("v", args.v, "k", args.k);
  CheckPool(rules, "kPool", args.k_pool, args.k.dim(2), d);
  rules.SameType("kPool", args.k_pool, "q", args.q.dtype);
  rules.Like("vPool", args.v_pool, "kPool", args.k_pool);
  CheckTable(rules, args.page_table, args.lengths, batch);
  rules.Rotation("q", args.q, args.cos, args.sin);
  const int64_t most = args.page_table.dim(1) * kPageSize;
  LORA_CHECK(args.cos.dim(0) >= most, rules.op(), "expected cos of at least ", most,
             " positions (64 per column of pageTable) but received shape ", args.cos.shape);
  if (args.table_start) {
    rules.Int32("tableStart", args.table_start);
    rules.ShapeIs("tableStart", args.table_start, {batch}, "(batch)");
  }
  rules.Like("y", args.y, "q", args.q);
}

void Check(const PositionsArgs& args) {
  const Rules rules(LabelOf(args));
  rules.Int32("lengths", args.lengths);
  rules.Rank("lengths", args.lengths, 1, "(batch)");
  rules.Int32("positions", args.positions);
  rules.ShapeIs("positions", args.positions, {args.lengths.dim(0), args.count}, "(batch, count)");
}

void Check(const AttentionPagedArgs& args) {
  const Rules rules(LabelOf(args));
  rules.InferenceAct("q", args.q);
  rules.Rank("q", args.q, 4, "(batch, queries, heads, head_dim)");
  rules.Rank("kPool", args.k_pool, 4, "(pages, kv_heads, 64, head_dim)");
  const int64_t heads = args.q.dim(2), kv_heads = args.k_pool.dim(1);
  CheckPool(rules, "kPool", args.k_pool, kv_heads, args.q.dim(3));
  rules.SameType("kPool", args.k_pool, "q", args.q.dtype);
  rules.Like("vPool", args.v_pool, "kPool", args.k_pool);
  LORA_CHECK(kv_heads > 0 ? heads % kv_heads == 0 : heads == 0, rules.op(),
             "expected q heads to be a multiple of kv heads but received ", heads, " and ",
             kv_heads);
  CheckTable(rules, args.page_table, args.lengths, args.q.dim(0));
  LORA_CHECK(args.phase != AttentionPhase::kDecode || args.q.dim(1) == 1, rules.op(),
             "expected q of one query per sequence in phase \"decode\" but received shape ",
             args.q.shape);
  LORA_CHECK(args.window >= 0, rules.op(), "expected window to be 0 (none) or more but received ",
             args.window);
  rules.Finite("scale", args.scale);
  if (args.sinks) rules.Sinks(args.sinks, heads);
  rules.Like("y", args.y, "q", args.q);
}

void ThrowLength(const char* op, int64_t batch, int64_t length, int64_t least, int64_t most) {
  Throw("ERR_DATA", op, "expected lengths from ", least, " (the positions of this call) to ", most,
        " (64 per column of pageTable) but received ", length, " for sequence ", batch);
}

void ThrowPage(const char* op, int64_t batch, int64_t column, int64_t page, int64_t pages) {
  Throw("ERR_DATA", op, "expected pages from 0 to ", pages - 1, " but received ", page,
        " at column ", column, " of pageTable for sequence ", batch);
}

void ThrowTableStart(const PageAppendArgs& args, int64_t batch, int64_t start) {
  Throw("ERR_DATA", LabelOf(args), "expected tableStart from 0 to ", LastTableStart(args),
        " (the positions of cos less 64 per column of pageTable) but received ", start,
        " for sequence ", batch);
}

void CheckTableStart(const PageAppendArgs& args) {
  for (int64_t b = 0; b < args.table_start.numel(); ++b) {
    const int64_t start = args.table_start.as<const int32_t>()[b];
    if (start < 0 || start > LastTableStart(args)) ThrowTableStart(args, b, start);
  }
}

void CheckPages(const char* op, const TensorView& page_table, const TensorView& lengths,
                int64_t pages, const UsedPositions& used) {
  if (used.count == 0) return;  // the op touches no page
  const int64_t columns = page_table.dim(1), most = columns * kPageSize;
  for (int64_t b = 0; b < lengths.dim(0); ++b) {
    const int64_t length = lengths.as<const int32_t>()[b];
    if (length < used.count || length > most) ThrowLength(op, b, length, used.count, most);
    const int32_t* row = page_table.as<const int32_t>() + b * columns;
    for (int64_t i = used.First(length) / kPageSize; i * kPageSize < length; ++i)
      if (row[i] < 0 || row[i] >= pages) ThrowPage(op, b, i, row[i], pages);
  }
}

}  // namespace lora
