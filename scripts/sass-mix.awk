# cuobjdump --dump-sass | awk -f sass-mix.awk: for each kernel with matrix instructions, what its innermost loop around
# them consists of. A loop is a branch backwards; of those that hold matrix instructions, the one with the fewest
# instructions. Counted are those of one pass: of all paths through the loop the one with the most matrix instructions,
# LDSM, LDGSTS of 16 bytes and barriers, and then with the fewest others. It is that of aligned operands and of tiles without
# an edge.
function number(hex, i, n) {
  n = 0
  for (i = 1; i <= length(hex); ++i) n = n * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
  return n
}
function count(kind) { return kind in mix ? mix[kind] : 0 }
# The passes from each instruction of a loop to its last one: 10^6 for each wanted instruction, -1 for any.
function find_path(from, to, i, next_score, jump) {
  split("", score)
  split("", jumps)
  score[to] = 0
  for (i = to - 1; i >= from; --i) {
    next_score = falls[i] ? score[i + 1] : -1e9
    jump = forward(i, to)
    if (jump && score[jump] > next_score) {
      next_score = score[jump]
      jumps[i] = jump
    }
    score[i] = next_score - 1 + (wanted[i] ? 1e6 : 0)
  }
}
# Where a branch inside of a loop goes on, or 0.
function forward(i, to, j) {
  if (target[i] == "" || target[i] <= address[i] || target[i] > address[to]) return 0
  for (j = i + 1; address[j] < target[i]; ++j) {}
  return j
}
function finish(i, j, from, best_from, best_to, matrix, kind, others, passed) {
  if (name == "" || total_matrix == 0) return
  best_from = 0
  best_to = -1
  for (i = 1; i <= n; ++i) {
    if (target[i] == "" || target[i] > address[i]) continue
    for (from = i; from > 1 && address[from - 1] >= target[i]; --from) {}
    matrix = 0
    for (j = from; j <= i; ++j) matrix += operation[j] ~ /^(HMMA|HGMMA)$/
    if (matrix > 0 && (best_to < 0 || i - from < best_to - best_from)) {
      best_from = from
      best_to = i
    }
  }
  if (!head) {
    print "| kernel | instructions | loop | pass | matrix | LDSM | LDGSTS | LDS | STS | LDG | BAR | local | others |"
    print "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    head = 1
  }
  if (best_to < 0) {
    print "| `" name "` | " n " | none found | | " total_matrix " in all | | | | | | | | |"
    return
  }
  split("", mix)
  find_path(best_from, best_to)
  passed = 0
  for (j = best_from; j <= best_to; j = j in jumps ? jumps[j] : j + 1) {
    ++mix[operation[j]]
    ++passed
  }
  matrix = count("HMMA") + count("HGMMA")
  others = passed - matrix
  for (kind in mix) if (kind ~ /^(LDSM|LDGSTS|LDS|STS|LDG|BAR|LDL|STL)$/) others -= mix[kind]
  print "| `" name "` | " n " | " best_to - best_from + 1 " | " passed " | " matrix " | " count("LDSM") " | " count("LDGSTS") " | " \
    count("LDS") " | " count("STS") " | " count("LDG") " | " count("BAR") " | " count("LDL") + count("STL") " | " others " |"
}
/Function : / {
  finish()
  name = $3
  n = total_matrix = 0
  split("", target)
  next
}
# /*0a10*/   @!P0 BRA 0x420 ;
match($0, /^[ \t]*\/\*[0-9a-f]+\*\//) {
  line = substr($0, RSTART, RLENGTH)
  rest = substr($0, RSTART + RLENGTH)
  gsub(/[^0-9a-f]/, "", line)
  fields = split(rest, word, /[ \t]+/)
  at = 1
  while (at <= fields && (word[at] == "" || word[at] ~ /^[@{]/)) ++at
  if (at > fields || word[at] !~ /^[A-Z]/) next
  ++n
  address[n] = number(line)
  target[n] = ""
  # A branch that depends on a predicate (@P0 BRA, BRA.U !UP0) may fall through.
  falls[n] = word[at] !~ /^(BRA|EXIT|RET|BRX|JMP)([.;]|$)/ || rest ~ /@!?U?P[0-9T]/ || word[at] ~ /^BRA\.(U|DIV)/
  wanted[n] = word[at] ~ /^(HMMA|HGMMA|LDSM|BAR)([.;]|$)|^LDGSTS.*\.128/
  operation[n] = word[at]
  sub(/[.;].*/, "", operation[n])
  total_matrix += operation[n] ~ /^(HMMA|HGMMA)$/
  if (operation[n] == "BRA" && match(rest, /0x[0-9a-f]+ *;/)) {
    hex = substr(rest, RSTART + 2, RLENGTH - 2)
    gsub(/[^0-9a-f]/, "", hex)
    target[n] = number(hex)
  }
}
END { finish() }
