"""The MPI functions that the interposer stands before: one line each says what the arguments are.

An argument is written as

- ``S:buf``, ``R:buf``: a buffer that is sent, or received into, with its count and its datatype; ``B:buf``
  is both. ``S*ranks:buf`` has that count for each rank; ``sources`` and ``destinations`` are neighbours;
- ``SV:buf``, ``RV:buf``: with counts and displacements for each rank, and one datatype;
- ``SW:buf``, ``RW:buf``: with counts, displacements in bytes and datatypes for each rank;
- ``S=:buf``: a buffer whose count and datatype are those that the arguments ``count`` and ``datatype`` say,
  as in reductions; ``counts`` are one for each rank;
- anything else by its name: its C type is in `TYPES`.

``@root`` behind a buffer: it counts on the root only. ``!`` behind a receive buffer: the call may leave parts
of it as they were.
"""

POINT_TO_POINT = """
Send S:buf dest tag comm
Bsend S:buf dest tag comm
Ssend S:buf dest tag comm
Rsend S:buf dest tag comm
Isend S:buf dest tag comm request
Ibsend S:buf dest tag comm request
Issend S:buf dest tag comm request
Irsend S:buf dest tag comm request
Send_init S:buf dest tag comm request
Bsend_init S:buf dest tag comm request
Ssend_init S:buf dest tag comm request
Rsend_init S:buf dest tag comm request
Recv R:buf source tag comm status
Irecv R:buf source tag comm request
Recv_init R:buf source tag comm request
Mrecv R:buf message status
Imrecv R:buf message request
Sendrecv S:sendbuf dest sendtag R:recvbuf source recvtag comm status
Isendrecv S:sendbuf dest sendtag R!:recvbuf source recvtag comm request
Sendrecv_replace B:buf dest sendtag source recvtag comm status
Isendrecv_replace B:buf dest sendtag source recvtag comm request
"""

# Each of these comes blocking, nonblocking and persistent.
COLLECTIVES = """
Bcast B:buffer root comm
Gather S:sendbuf R*ranks@root:recvbuf root comm
Gatherv S:sendbuf RV*ranks@root:recvbuf root comm
Scatter S*ranks@root:sendbuf R:recvbuf root comm
Scatterv SV*ranks@root:sendbuf R:recvbuf root comm
Allgather S:sendbuf R*ranks:recvbuf comm
Allgatherv S:sendbuf RV*ranks:recvbuf comm
Alltoall S*ranks:sendbuf R*ranks:recvbuf comm
Alltoallv SV*ranks:sendbuf RV*ranks:recvbuf comm
Alltoallw SW*ranks:sendbuf RW*ranks:recvbuf comm
Reduce S=:sendbuf R=@root:recvbuf count datatype op root comm
Allreduce S=:sendbuf R=:recvbuf count datatype op comm
Reduce_scatter_block S=:sendbuf R=:recvbuf count datatype op comm
Reduce_scatter S=:sendbuf R=:recvbuf counts datatype op comm
Scan S=:sendbuf R=:recvbuf count datatype op comm
Exscan S=:sendbuf R!=:recvbuf count datatype op comm
Neighbor_allgather S:sendbuf R!*sources:recvbuf comm
Neighbor_allgatherv S:sendbuf RV!*sources:recvbuf comm
Neighbor_alltoall S*destinations:sendbuf R!*sources:recvbuf comm
Neighbor_alltoallv SV*destinations:sendbuf RV!*sources:recvbuf comm
Neighbor_alltoallw SW*destinations:sendbuf RW!*sources:recvbuf comm
Barrier comm
"""

# Those of which roundelay has algorithms of its own, which a program may ask for.
CHOSEN = """
Bcast Allgather Allgatherv Reduce Allreduce Reduce_scatter_block Reduce_scatter Iallreduce Allreduce_init
"""

# Nothing is changed in these: a program can know by them that what it has not waited for is complete, and an
# observer what it waits for, or which rank ends the job.
PASSED = """
Abort comm errorcode
Probe source tag comm status
Iprobe source tag comm flag status
Mprobe source tag comm message status
Improbe source tag comm flag message status
"""

# What makes and frees communicators, which an observer knows by their handles.
COMMUNICATORS = """
Comm_dup comm newcomm
Comm_dup_with_info comm info newcomm
Comm_idup comm newcomm request
Comm_idup_with_info comm info newcomm request
Comm_create comm group newcomm
Comm_create_group comm group tag newcomm
Comm_split comm color key newcomm
Comm_split_type comm kind key info newcomm
Cart_create comm dimensions lengths periods reorder newcomm
Cart_sub comm remaining newcomm
Graph_create comm nodes degrees neighbors reorder newcomm
Dist_graph_create comm nodes sources degrees neighbors weights info reorder newcomm
Dist_graph_create_adjacent comm indegree sources inweights outdegree neighbors weights info reorder newcomm
Intercomm_merge comm high newcomm
Comm_free freed
Comm_disconnect freed
"""

# Collectives of roundelay's own, which an observer sees in place of the calls that they make.
PERFORMED = """
attention
attention_backward
linear_attention
linear_attention_backward
decode_attention
allreduce_many
"""

# Written by hand: name, its arguments in C. The last ones have a large-count form, too.
COMPLETIONS = """
Wait MPI_Request *request, MPI_Status *status
Test MPI_Request *request, int *flag, MPI_Status *status
Request_get_status MPI_Request request, int *flag, MPI_Status *status
Waitall int count, MPI_Request *requests, MPI_Status *statuses
Testall int count, MPI_Request *requests, int *flag, MPI_Status *statuses
Request_get_status_all int count, const MPI_Request *requests, int *flag, MPI_Status *statuses
Waitany int count, MPI_Request *requests, int *index, MPI_Status *status
Testany int count, MPI_Request *requests, int *index, int *flag, MPI_Status *status
Request_get_status_any int count, const MPI_Request *requests, int *index, int *flag, MPI_Status *status
Waitsome int count, MPI_Request *requests, int *found, int *indices, MPI_Status *statuses
Testsome int count, MPI_Request *requests, int *found, int *indices, MPI_Status *statuses
Request_get_status_some int count, const MPI_Request *requests, int *found, int *indices, MPI_Status *statuses
Start MPI_Request *request
Startall int count, MPI_Request *requests
Request_free MPI_Request *request
Finalize void
"""
PACKING = """
Pack const void *memory, COUNT count, MPI_Datatype type, void *packed, COUNT size, COUNT *at, MPI_Comm comm
Unpack const void *packed, COUNT size, COUNT *at, void *memory, COUNT count, MPI_Datatype type, MPI_Comm comm
"""

# Not intercepted, but called: name, arguments in C.
CALLED = """
Comm_rank MPI_Comm comm, int *rank
Comm_size MPI_Comm comm, int *size
Comm_test_inter MPI_Comm comm, int *flag
Comm_group MPI_Comm comm, MPI_Group *group
Group_translate_ranks MPI_Group group, int count, const int *ranks, MPI_Group other, int *translated
Group_free MPI_Group *group
Topo_test MPI_Comm comm, int *topology
Cartdim_get MPI_Comm comm, int *dimensions
Cart_get MPI_Comm comm, int most, int *dimensions, int *periods, int *coordinates
Graph_neighbors_count MPI_Comm comm, int rank, int *count
Dist_graph_neighbors_count MPI_Comm comm, int *sources, int *destinations, int *weighted
Get_elements_x const MPI_Status *status, MPI_Datatype datatype, MPI_Count *count
Test_cancelled const MPI_Status *status, int *flag
Cancel MPI_Request *request
Type_free MPI_Datatype *datatype
Type_size_x MPI_Datatype datatype, MPI_Count *size
"""

TYPES = {
    "color": "int color",
    "comm": "MPI_Comm comm",
    "datatype": "MPI_Datatype datatype",
    "degrees": "const int *degrees",
    "dest": "int dest",
    "dimensions": "int dimensions",
    "errorcode": "int errorcode",
    "flag": "int *flag",
    "freed": "MPI_Comm *freed",
    "group": "MPI_Group group",
    "high": "int high",
    "indegree": "int indegree",
    "info": "MPI_Info info",
    "inweights": "const int *inweights",
    "key": "int key",
    "kind": "int kind",
    "lengths": "const int *lengths",
    "message": "MPI_Message *message",
    "neighbors": "const int *neighbors",
    "newcomm": "MPI_Comm *newcomm",
    "nodes": "int nodes",
    "op": "MPI_Op op",
    "outdegree": "int outdegree",
    "periods": "const int *periods",
    "recvtag": "int recvtag",
    "remaining": "const int *remaining",
    "reorder": "int reorder",
    "request": "MPI_Request *request",
    "root": "int root",
    "sendtag": "int sendtag",
    "source": "int source",
    "sources": "const int *sources",
    "fromweights": "const int *sourceweights",
    "status": "MPI_Status *status",
    "tag": "int tag",
    "weights": "const int *weights",
}
