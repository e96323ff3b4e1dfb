/*
 * Stands for a benchmark of an MPI job: measures nothing, and says who runs where.
 *
 * A line of each rank, in the order of ranks: its host, how many GPUs it has and which IMEX channels. The first rank
 * collects the lines by MPI, so that they are only there if the ranks reach each other.
 */
#include <ctype.h>
#include <dirent.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE 256

/* How many entries of a directory begin with `prefix` and go on with a digit. Their names are appended to `names`. */
static int entries(const char *directory, const char *prefix, char *names, size_t room)
{
	DIR *dir = opendir(directory);
	int count = 0;

	if (!dir)
		return 0;
	for (struct dirent *entry; (entry = readdir(dir));) {
		const char *rest = entry->d_name + strlen(prefix);

		if (strncmp(entry->d_name, prefix, strlen(prefix)) || !isdigit((unsigned char)*rest))
			continue;
		count++;
		if (names) {
			size_t used = strlen(names);

			snprintf(names + used, room - used, " %s", entry->d_name);
		}
	}
	closedir(dir);
	return count;
}

int main(int argc, char **argv)
{
	char line[LINE] = "", host[64] = "", channels[96] = "";
	char *lines = NULL;
	int rank, size;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	gethostname(host, sizeof(host) - 1);
	entries("/dev/nvidia-caps-imex-channels", "channel", channels, sizeof(channels));
	snprintf(line, sizeof(line), "rank %d of %d on %s: %d GPUs,%s", rank, size, host,
		 entries("/dev", "nvidia", NULL, 0), channels[0] ? channels : " no channel");
	if (rank == 0)
		lines = malloc((size_t)size * LINE);
	MPI_Gather(line, LINE, MPI_CHAR, lines, LINE, MPI_CHAR, 0, MPI_COMM_WORLD);
	for (int other = 0; lines && other < size; other++)
		printf("%s\n", lines + (size_t)other * LINE);
	free(lines);
	MPI_Finalize();
	return 0;
}
