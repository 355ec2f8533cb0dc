/* A library whose initialiser leaves a trace: it makes the file that is named in the environment. A host that looks at this
 * file without loading it leaves no trace. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((constructor)) static void touch(void) {
    const char *path = getenv("THESEUS_FIXTURE_TOUCH");
    if (path != NULL) {
        int file = open(path, O_CREAT | O_WRONLY, 0600);
        if (file >= 0) {
            close(file);
        }
    }
}
