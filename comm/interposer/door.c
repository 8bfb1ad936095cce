#include "door.h"

struct functions next;
struct constants constants;
const struct observer *observer;
bool checks_bounds;
QUICK_THREAD_LOCAL struct frame *current;

int rank_of(MPI_Comm comm)
{
    int rank = -1;
    next.Comm_rank(comm, &rank);
    return rank;
}

int ranks_of(MPI_Comm comm)
{
    int ranks = 0;
    next.Comm_size(comm, &ranks);
    return ranks;
}

bool is_inter(MPI_Comm comm)
{
    int flag = 0;
    return next.Comm_test_inter(comm, &flag) != MPI_SUCCESS || flag;
}

/* How many neighbours a rank receives from and sends to. */
static void count_neighbors(MPI_Comm comm, int *sources, int *destinations)
{
    int topology = MPI_UNDEFINED, weighted;
    *sources = *destinations = 0;
    next.Topo_test(comm, &topology);
    if (topology == MPI_DIST_GRAPH) {
        next.Dist_graph_neighbors_count(comm, sources, destinations, &weighted);
    } else if (topology == MPI_CART) {
        next.Cartdim_get(comm, sources);
        *destinations = *sources *= 2;
    } else if (topology == MPI_GRAPH) {
        next.Graph_neighbors_count(comm, rank_of(comm), sources);
        *destinations = *sources;
    }
}

int sources_of(MPI_Comm comm)
{
    int sources, destinations;
    count_neighbors(comm, &sources, &destinations);
    return sources;
}

int destinations_of(MPI_Comm comm)
{
    int sources, destinations;
    count_neighbors(comm, &sources, &destinations);
    return destinations;
}

bool lacks_sources(MPI_Comm comm)
{
    enum { MOST = 32 };
    int topology = MPI_UNDEFINED, dimensions = 0, lengths[MOST], periods[MOST], coordinates[MOST];
    next.Topo_test(comm, &topology);
    if (topology != MPI_CART)
        return false;
    if (next.Cartdim_get(comm, &dimensions) != MPI_SUCCESS || dimensions > MOST ||
        next.Cart_get(comm, MOST, lengths, periods, coordinates) != MPI_SUCCESS)
        return true;
    for (int i = 0; i < dimensions; i++)
        if (!periods[i] && (coordinates[i] == 0 || coordinates[i] == lengths[i] - 1))
            return true;
    return false;
}

bool all_pass(int blocks, const void *buffer, const MPI_Datatype *types)
{
    if (buffer == MPI_IN_PLACE || types == NULL)
        return true;
    for (int i = 0; i < blocks; i++)
        if (!passes(types[i]))
            return false;
    return true;
}
