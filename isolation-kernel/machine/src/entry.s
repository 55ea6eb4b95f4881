# From the loader to `firn_start`, by the PVH protocol: 32-bit protected mode, paging off, ebx = start_info.
# Linked at its load address; nothing here is reached again once the kernel's own tables are loaded.

.section .note.pvh, "a", @note
.balign 4
.long 4, 8, 18                      # XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.quad pvh_entry

.section .boot.text, "ax", @progbits
.code32
.global pvh_entry
pvh_entry:
    cli
    cld
    mov esp, offset boot_stack_top
    mov ebp, ebx

    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb refuse
    mov eax, 0x80000001
    cpuid
    bt edx, 29                      # long mode
    jnc refuse
    bt edx, 20                      # no-execute
    jnc refuse

    mov eax, cr4
    or eax, 0x20                    # PAE
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080             # EFER: LME, NXE
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    or eax, 0x80010001              # PG, WP, PE
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 0x08
    mov eax, offset long_entry
    push eax
    retf

# No 64-bit mode: say so on the serial line and end.
refuse:
    mov esi, offset refusal
1:  lodsb
    test al, al
    jz 2f
    mov dx, 0x3f8
    out dx, al
    jmp 1b
2:  mov eax, offset refusal_exit_low
    mov al, [eax]
    out 0xf4, al
3:  hlt
    jmp 3b

.code64
long_entry:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    movabs rsp, offset kernel_stack_top
    mov edi, ebp
    xor ebp, ebp
    movabs rax, offset firn_start
    call rax
    ud2

.section .boot.data, "aw", @progbits
refusal:
    .asciz "firn: this processor lacks 64-bit mode or no-execute pages; the kernel needs both\n"
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 64-bit code
    .quad 0x00cf93000000ffff        # data
boot_gdt_pointer:
    .word 23
    .long boot_gdt
.balign 16
    .fill 64, 1, 0
boot_stack_top:

# The first 4 GiB, at 0 (until the jump), at the start of the direct map, and the first of them for the kernel.
.balign 4096
boot_pml4:
    .quad boot_pdpt + 3
    .fill 255, 8, 0
    .quad boot_pdpt + 3
    .fill 254, 8, 0
    .quad boot_pdpt_kernel + 3
boot_pdpt:
    .quad boot_pd + 0x0003
    .quad boot_pd + 0x1003
    .quad boot_pd + 0x2003
    .quad boot_pd + 0x3003
    .fill 508, 8, 0
boot_pdpt_kernel:
    .fill 510, 8, 0
    .quad boot_pd + 3
    .quad 0
boot_pd:
    .set page, 0
    .rept 2048
    .quad (page << 21) + 0x83
    .set page, page + 1
    .endr
.text
