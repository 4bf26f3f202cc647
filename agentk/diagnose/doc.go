// Package diagnose looks at what agentk needs of its cluster, when somebody asks why an
// agent does not do what it should.
//
// In come the agent's configuration (Configure) and the kinds of objects that its manifest
// projects hold (Examine); out goes, into an agentrpc.DiagnoseResponse, how the API server
// fares, who leads the agent, and which permissions agentk lacks. Nothing is changed in the
// cluster: reviews of access are questions.
//
// What is needed:
//
//	in agentk's namespace   its Lease; ConfigMaps for inventories and decisions
//	of each kind            list and watch in all namespaces, for informers; get, create,
//	                        patch and delete, in all namespaces or each in which objects are
//	to impersonate          what access_as of the configuration asks for
//
// Invariants:
//   - Examine always answers, within Config.Timeout: what could not be found out is said.
//   - One examination at a time, parallelReviews questions at a time, and maxReviews in all:
//     whoever may ask does not wear down the API server.
//   - Who may do everything is found out by one question.
//
// Examine runs in its caller's goroutine, and in others that have ended when it returns.
package diagnose
