/* A library in C, without anything of ours, that carries the note of a plugin. What the note says comes from the command line
 * as MANIFEST; with ROOT it also exports something of that many bytes where a plugin's root module would be. Its initialiser is
 * that of touch.c, so that a host that runs code of it leaves a trace. */
#include "touch.c"

__attribute__((section(".note.theseus"), aligned(4), used)) static const struct {
    unsigned name_size, description_size, type;
    char name[8];
    char description[sizeof(MANIFEST) - 1];
} note = {8, sizeof(MANIFEST) - 1, 1, "Theseus", MANIFEST};

#ifdef ROOT
char _1as_0lib_1header_0root_bmodule_bloader[ROOT] = {1};
#endif
