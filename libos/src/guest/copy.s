# Registers by the C convention: rdi, rsi, rdx in, rax out; only caller-saved ones are used.

.section .text.firn_copy, "ax", @progbits

# firn_move(rdi: to, rsi: from, rdx: length) -> to. The ranges may overlap.
.globl firn_move
.p2align 4
firn_move:
    mov rax, rdi
    cmp rdx, 16
    jb 20f
    cmp rdx, 32
    ja 10f
    movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
10: cmp rdx, 64
    ja 30f
    movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + rdx - 32]
    movups xmm3, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + rdx - 32], xmm2
    movups [rdi + rdx - 16], xmm3
    ret
    # Less than 16: two loads that may overlap, before the first store.
20: cmp edx, 8
    jb 21f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
21: cmp edx, 4
    jb 22f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
22: test edx, edx
    jz 23f
    movzx ecx, byte ptr [rsi]
    movzx r8d, byte ptr [rsi + rdx - 1]
    mov r9, rdx
    shr r9
    movzx r10d, byte ptr [rsi + r9]
    mov [rdi + r9], r10b
    mov [rdi], cl
    mov [rdi + rdx - 1], r8b
23: ret
    # More than 64. Does the target begin inside of the source?
30: mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jb 40f
    # Upwards; the last 64 bytes are loaded before anything is stored over them.
    movups xmm4, [rsi + rdx - 64]
    movups xmm5, [rsi + rdx - 48]
    movups xmm6, [rsi + rdx - 32]
    movups xmm7, [rsi + rdx - 16]
    lea r8, [rdi + rdx - 64]
31: movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + 32]
    movups xmm3, [rsi + 48]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    add rsi, 64
    add rdi, 64
    cmp rdi, r8
    jb 31b
    movups [r8], xmm4
    movups [r8 + 16], xmm5
    movups [r8 + 32], xmm6
    movups [r8 + 48], xmm7
    ret
    # Downwards; the first 64 bytes are loaded before anything is stored over them.
40: test rcx, rcx
    jz 42f
    movups xmm4, [rsi]
    movups xmm5, [rsi + 16]
    movups xmm6, [rsi + 32]
    movups xmm7, [rsi + 48]
41: movups xmm0, [rsi + rdx - 64]
    movups xmm1, [rsi + rdx - 48]
    movups xmm2, [rsi + rdx - 32]
    movups xmm3, [rsi + rdx - 16]
    movups [rdi + rdx - 64], xmm0
    movups [rdi + rdx - 48], xmm1
    movups [rdi + rdx - 32], xmm2
    movups [rdi + rdx - 16], xmm3
    sub rdx, 64
    cmp rdx, 64
    ja 41b
    movups [rdi], xmm4
    movups [rdi + 16], xmm5
    movups [rdi + 32], xmm6
    movups [rdi + 48], xmm7
42: ret

# firn_fill(rdi: to, esi: byte, rdx: length) -> to.
.globl firn_fill
.p2align 4
firn_fill:
    mov rax, rdi
    movzx esi, sil
    mov rcx, 0x0101010101010101
    imul rsi, rcx
    cmp rdx, 16
    jb 20f
    movq xmm0, rsi
    punpcklqdq xmm0, xmm0
    cmp rdx, 64
    ja 30f
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm0
    cmp rdx, 32
    jbe 10f
    movups [rdi + 16], xmm0
    movups [rdi + rdx - 32], xmm0
10: ret
20: cmp edx, 8
    jb 21f
    mov [rdi], rsi
    mov [rdi + rdx - 8], rsi
    ret
21: cmp edx, 4
    jb 22f
    mov [rdi], esi
    mov [rdi + rdx - 4], esi
    ret
22: test edx, edx
    jz 23f
    mov [rdi], sil
    mov [rdi + rdx - 1], sil
    shr rdx
    mov [rdi + rdx], sil
23: ret
30: lea r8, [rdi + rdx - 64]
31: movups [rdi], xmm0
    movups [rdi + 16], xmm0
    movups [rdi + 32], xmm0
    movups [rdi + 48], xmm0
    add rdi, 64
    cmp rdi, r8
    jb 31b
    movups [r8], xmm0
    movups [r8 + 16], xmm0
    movups [r8 + 32], xmm0
    movups [r8 + 48], xmm0
    ret

# firn_compare(rdi: left, rsi: right, rdx: length) -> below, at or above 0.
.globl firn_compare
.p2align 4
firn_compare:
    cmp rdx, 16
    jb 20f
10: movups xmm0, [rdi]
    movups xmm1, [rsi]
    pcmpeqb xmm0, xmm1
    pmovmskb ecx, xmm0
    xor ecx, 0xffff
    jnz 40f
    add rdi, 16
    add rsi, 16
    sub rdx, 16
    cmp rdx, 16
    jae 10b
20: test rdx, rdx
    jz 31f
30: movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jnz 32f
    inc rdi
    inc rsi
    dec rdx
    jnz 30b
31: xor eax, eax
32: ret
40: bsf ecx, ecx
    movzx eax, byte ptr [rdi + rcx]
    movzx edx, byte ptr [rsi + rcx]
    sub eax, edx
    ret
