# cuobjdump --dump-sass | awk -f sass-mix.awk: for each kernel with matrix instructions, what a pass of its innermost loops
# around them consists of, those with the most of them first. A loop is a branch backwards. Counted are the instructions of
# one pass: of all paths through the loop the one with the most matrix instructions, LDSM, LDS, loads, LDGSTS of 16 bytes and
# barriers, and then with the fewest others. It is that of aligned operands and of tiles without an edge; loads of 1 and 2
# bytes are for others. Predicated instructions, without branches, take a slot also where they do nothing.
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
# Fills loop_from and loop_to with the innermost loops that hold matrix instructions; returns their number.
function find_loops(i, j, from, matrix, all, kept, inner) {
  all = kept = 0
  for (i = 1; i <= n; ++i) {
    if (target[i] == "" || target[i] > address[i]) continue
    for (from = i; from > 1 && address[from - 1] >= target[i]; --from) {}
    matrix = 0
    for (j = from; j <= i; ++j) matrix += operation[j] ~ /^(HMMA|HGMMA)$/
    if (matrix == 0) continue
    any_from[++all] = from
    any_to[all] = i
  }
  for (i = 1; i <= all; ++i) {
    inner = 1
    for (j = 1; j <= all; ++j)
      if (any_from[j] >= any_from[i] && any_to[j] <= any_to[i] && (any_from[j] > any_from[i] || any_to[j] < any_to[i])) inner = 0
    if (!inner) continue
    loop_from[++kept] = any_from[i]
    loop_to[kept] = any_to[i]
  }
  return kept
}
function finish(i, j, loops, matrix, kind, others, passed, guards, rows, most, place) {
  if (name == "" || total_matrix == 0) return
  if (!head) {
    print "| kernel | instructions | loop | pass | matrix | LDSM | LDGSTS | LDS | STS | LDG | BAR | local | S2UR | I2F | predicated | others |"
    print "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    head = 1
  }
  loops = find_loops()
  if (loops == 0) print "| `" name "` | " n " | none found | | " total_matrix " in all | | | | | | | | | | | |"
  split("", rows)
  split("", most)
  for (i = 1; i <= loops; ++i) {
    split("", mix)
    find_path(loop_from[i], loop_to[i])
    passed = guards = 0
    for (j = loop_from[i]; j <= loop_to[i]; j = j in jumps ? jumps[j] : j + 1) {
      ++mix[operation[j]]
      ++passed
      guards += guarded[j]
    }
    matrix = count("HMMA") + count("HGMMA")
    others = passed - matrix
    for (kind in mix) if (kind ~ /^(LDSM|LDGSTS|LDS|STS|LDG|BAR|LDL|STL)$/) others -= mix[kind]
    most[i] = matrix * 1e6 + passed
    rows[i] = "| `" name "` | " n " | " loop_to[i] - loop_from[i] + 1 " | " passed " | " matrix " | " count("LDSM") " | " \
      count("LDGSTS") " | " count("LDS") " | " count("STS") " | " count("LDG") " | " count("BAR") " | " \
      count("LDL") + count("STL") " | " count("S2UR") " | " count("I2F") + count("I2FP") " | " guards " | " others " |"
  }
  for (; loops > 0; --loops) {
    place = 0
    for (i in most) if (place == 0 || most[i] > most[place]) place = i
    print rows[place]
    delete most[place]
  }
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
  wanted[n] = word[at] ~ /^(HMMA|HGMMA|LDSM|LDS|BAR)([.;]|$)|^LDGSTS.*\.128/ || \
    (word[at] ~ /^LDG([.;]|$)/ && word[at] !~ /\.[US](8|16)([.;]|$)/)
  operation[n] = word[at]
  sub(/[.;].*/, "", operation[n])
  guarded[n] = rest ~ /^[ \t]*@/ && operation[n] != "BRA"
  total_matrix += operation[n] ~ /^(HMMA|HGMMA)$/
  if (operation[n] == "BRA" && match(rest, /0x[0-9a-f]+ *;/)) {
    hex = substr(rest, RSTART + 2, RLENGTH - 2)
    gsub(/[^0-9a-f]/, "", hex)
    target[n] = number(hex)
  }
}
END { finish() }
