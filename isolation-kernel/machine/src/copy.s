# memcpy, memmove, memset, memcmp, bcmp for the kernel, by 64 bytes in general registers. String instructions are
# several times slower under emulation, and the kernel has no vector registers.
# rdi = to, rsi = from (or byte, or other), rdx = bytes; rax = to.

.section .text
.balign 64
.global memcpy
memcpy:
    mov rax, rdi
memcpy_forward:
    cmp rdx, 64
    jb 2f
    .balign 16
1:  mov rcx, [rsi]
    mov r8, [rsi + 8]
    mov r9, [rsi + 16]
    mov r10, [rsi + 24]
    mov [rdi], rcx
    mov [rdi + 8], r8
    mov [rdi + 16], r9
    mov [rdi + 24], r10
    mov rcx, [rsi + 32]
    mov r8, [rsi + 40]
    mov r9, [rsi + 48]
    mov r10, [rsi + 56]
    mov [rdi + 32], rcx
    mov [rdi + 40], r8
    mov [rdi + 48], r9
    mov [rdi + 56], r10
    add rsi, 64
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    jae 1b
2:  cmp edx, 8
    jb 4f
3:  mov rcx, [rsi]
    mov [rdi], rcx
    add rsi, 8
    add rdi, 8
    sub edx, 8
    cmp edx, 8
    jae 3b
4:  test dl, 4
    jz 5f
    mov ecx, [rsi]
    mov [rdi], ecx
    add rsi, 4
    add rdi, 4
5:  test dl, 2
    jz 6f
    movzx ecx, word ptr [rsi]
    mov [rdi], cx
    add rsi, 2
    add rdi, 2
6:  test dl, 1
    jz 7f
    movzx ecx, byte ptr [rsi]
    mov [rdi], cl
7:  ret

.balign 16
.global memmove
memmove:
    mov rax, rdi
    mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jae memcpy_forward              # `to` is not inside `from`
    cmp rdx, 8
    jb 2f
1:  mov rcx, [rsi + rdx - 8]
    mov [rdi + rdx - 8], rcx
    sub rdx, 8
    cmp rdx, 8
    jae 1b
2:  test rdx, rdx
    jz 4f
3:  movzx ecx, byte ptr [rsi + rdx - 1]
    mov [rdi + rdx - 1], cl
    dec rdx
    jnz 3b
4:  ret

.balign 16
.global memset
memset:
    mov rax, rdi
    movzx esi, sil
    movabs rcx, 0x0101010101010101
    imul rcx, rsi
    cmp rdx, 64
    jb 2f
    .balign 16
1:  mov [rdi], rcx
    mov [rdi + 8], rcx
    mov [rdi + 16], rcx
    mov [rdi + 24], rcx
    mov [rdi + 32], rcx
    mov [rdi + 40], rcx
    mov [rdi + 48], rcx
    mov [rdi + 56], rcx
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    jae 1b
2:  cmp edx, 8
    jb 4f
3:  mov [rdi], rcx
    add rdi, 8
    sub edx, 8
    cmp edx, 8
    jae 3b
4:  test edx, edx
    jz 6f
5:  mov [rdi], cl
    inc rdi
    dec edx
    jnz 5b
6:  ret

.balign 16
.global memcmp
.global bcmp
memcmp:
bcmp:
    cmp rdx, 8
    jb 2f
1:  mov rcx, [rdi]
    cmp rcx, [rsi]
    jne 4f
    add rdi, 8
    add rsi, 8
    sub rdx, 8
    cmp rdx, 8
    jae 1b
2:  test rdx, rdx
    jz 5f
3:  movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jnz 6f
    inc rdi
    inc rsi
    dec rdx
    jnz 3b
5:  xor eax, eax
6:  ret
4:  mov r8, [rsi]                   # the first byte that differs decides: compare as big-endian
    bswap rcx
    bswap r8
    cmp rcx, r8
    sbb eax, eax
    or eax, 1
    ret

# zero_page(to): 4096 bytes.
.balign 64
.global firn_zero_page
firn_zero_page:
    xor eax, eax
    mov ecx, 32
1:  mov [rdi], rax
    mov [rdi + 8], rax
    mov [rdi + 16], rax
    mov [rdi + 24], rax
    mov [rdi + 32], rax
    mov [rdi + 40], rax
    mov [rdi + 48], rax
    mov [rdi + 56], rax
    mov [rdi + 64], rax
    mov [rdi + 72], rax
    mov [rdi + 80], rax
    mov [rdi + 88], rax
    mov [rdi + 96], rax
    mov [rdi + 104], rax
    mov [rdi + 112], rax
    mov [rdi + 120], rax
    add rdi, 128
    dec ecx
    jnz 1b
    ret
